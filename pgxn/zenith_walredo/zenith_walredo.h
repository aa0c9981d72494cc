/*
 * zenith_walredo.h
 *		Parts of the WAL redo process. See zenith_walredo.c for the whole.
 */
#ifndef ZENITH_WALREDO_H
#define ZENITH_WALREDO_H

#include "access/xlogreader.h"
#include "storage/buf_internals.h"

/* Exit codes, for the log of the page server. */
#define REDO_EXIT_OK			0
#define REDO_EXIT_PIPE			10	/* stdin or stdout broke */
#define REDO_EXIT_PROTOCOL		11	/* a request made no sense */
#define REDO_EXIT_FAILED		12	/* a record could not be applied */
#define REDO_EXIT_CRASHED		13	/* a signal such as SIGSEGV, or a forbidden syscall */
#define REDO_EXIT_STARTUP		14	/* could not set up the sandbox */

/* redo_pipe.c: buffered stdin and stdout */
extern void pipe_init(void);
extern bool pipe_at_end(void);
extern const char *pipe_take(size_t size);
extern char *pipe_reserve_reply(size_t size);
extern void pipe_commit_reply(size_t size);
extern void pipe_flush(void);
extern void pipe_complain(const char *text);
extern void redo_exit(int code) pg_attribute_noreturn();

/* redo_smgr.c: the storage manager whose only page is the one being rebuilt */
extern void redo_smgr_register(void);
extern void redo_smgr_begin(const BufferTag *target, const char *base);
extern void redo_smgr_after_record(void);
extern void redo_smgr_copy_target(char *page);
extern void redo_smgr_finish(char *page);

/* redo_consistency.c: images of wal_consistency_checking */
extern bool redo_check_consistency(XLogReaderState *record, const BufferTag *target);

/* redo_sandbox.c: give up every right that rebuilding pages does not need */
extern void sandbox_enter(void);

#endif							/* ZENITH_WALREDO_H */
