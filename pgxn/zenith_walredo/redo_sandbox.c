/*
 * redo_sandbox.c
 *		Gives up every right that rebuilding pages does not need.
 *
 * WAL comes from computes, where users may run code of their own, so a record
 * may be made to exploit a bug in a redo routine.  Whoever takes over this
 * process that way finds one stdin, one stdout, one stderr, and system calls
 * to manage memory: no files, no network, no other process.
 */
#include "postgres.h"

#include <linux/audit.h>
#include <linux/close_range.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "zenith_walredo.h"

#if defined(__x86_64__)
#define SANDBOX_ARCH	AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define SANDBOX_ARCH	AUDIT_ARCH_AARCH64
#else
#error "the sandbox knows x86-64 and arm64 only"
#endif

/* Address space; a chain is applied record by record, so records set the need. */
#define ADDRESS_SPACE_LIMIT	((rlim_t) 2 * 1024 * 1024 * 1024)

#define LOAD_WORD(field) \
	BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define ALLOW	BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
/* Refuses the call and raises SIGSYS: the handler names the call in the log. */
#define REFUSE	BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP)
#define ALLOW_CALL(name) \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_##name, 0, 1), \
	ALLOW
/* Memory may be mapped, but never as code. */
#define ALLOW_CALL_WITHOUT_PROT_EXEC(name) \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_##name, 0, 4), \
	LOAD_WORD(args[2]), \
	BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, PROT_EXEC, 0, 1), \
	REFUSE, \
	ALLOW

static struct sock_filter filter[] = {
	LOAD_WORD(arch),
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SANDBOX_ARCH, 1, 0),
	BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	LOAD_WORD(nr),
	ALLOW_CALL(read),
	ALLOW_CALL(write),
	ALLOW_CALL(brk),
	ALLOW_CALL(munmap),
	ALLOW_CALL(mremap),
	ALLOW_CALL(madvise),
	ALLOW_CALL(futex),
	ALLOW_CALL(getpid),
	ALLOW_CALL(clock_gettime),
	ALLOW_CALL(gettimeofday),
	ALLOW_CALL(rt_sigreturn),
	ALLOW_CALL(exit_group),
	ALLOW_CALL_WITHOUT_PROT_EXEC(mmap),
	REFUSE,
};

static void
limit(int resource, rlim_t value)
{
	struct rlimit wanted = {.rlim_cur = value, .rlim_max = value};
	struct rlimit current;

	/* A lower limit of the environment stays as it is. */
	if (getrlimit(resource, &current) == 0 && current.rlim_max < value)
		wanted.rlim_cur = wanted.rlim_max = current.rlim_max;
	if (setrlimit(resource, &wanted) != 0)
	{
		pipe_complain("WAL redo: could not set a resource limit");
		redo_exit(REDO_EXIT_STARTUP);
	}
}

/*
 * The replies that are ready still go out: then the first request without a
 * reply is the one that crashed.
 */
static void
crash_handler(int signo, siginfo_t *info, void *context)
{
	char		text[] = "WAL redo: crashed with signal 00, system call 000";
	int			call = signo == SIGSYS ? info->si_syscall : 0;
	char	   *digits = strstr(text, "00");

	digits[0] = '0' + signo / 10 % 10;
	digits[1] = '0' + signo % 10;
	digits = text + sizeof(text) - 4;
	digits[0] = '0' + call / 100 % 10;
	digits[1] = '0' + call / 10 % 10;
	digits[2] = '0' + call % 10;
	pipe_complain(text);
	pipe_flush();
	redo_exit(REDO_EXIT_CRASHED);
}

static void
install_handlers(void)
{
	static const int fatal_signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS};
	static const int plain_signals[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGPIPE};
	/* A stack of its own, or an overflow of the stack could not be reported. */
	static char handler_stack[64 * 1024];
	stack_t		stack = {.ss_sp = handler_stack,.ss_size = sizeof(handler_stack)};
	struct sigaction action = {.sa_sigaction = crash_handler,
	.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESETHAND};
	sigset_t	none;

	sigaltstack(&stack, NULL);
	sigemptyset(&action.sa_mask);
	for (int i = 0; i < lengthof(fatal_signals); i++)
		sigaction(fatal_signals[i], &action, NULL);
	for (int i = 0; i < lengthof(plain_signals); i++)
		signal(plain_signals[i], SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Exits the process if any part of the sandbox cannot be had. */
void
sandbox_enter(void)
{
	struct sock_fprog program = {.len = lengthof(filter),.filter = filter};

	install_handlers();
	limit(RLIMIT_AS, ADDRESS_SPACE_LIMIT);
	limit(RLIMIT_CORE, 0);
	limit(RLIMIT_FSIZE, 0);

	if (syscall(__NR_close_range, 3U, ~0U, 0U) != 0)
	{
		pipe_complain("WAL redo: close_range failed");
		redo_exit(REDO_EXIT_STARTUP);
	}
	limit(RLIMIT_NOFILE, 3);

	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0 ||
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
		syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) != 0)
	{
		pipe_complain("WAL redo: this kernel does not allow a seccomp filter");
		redo_exit(REDO_EXIT_STARTUP);
	}
}
