/*
 * redo_pipe.c
 *		Buffered stdin and stdout of the WAL redo process.
 *
 * Requests come pipelined: one read() may bring many of them, and replies are
 * collected until there is nothing left to work on.  Replies are therefore
 * always written before a read() that could block, so that the other side
 * never waits for a reply that sits in our buffer.
 *
 * Nothing here calls into the rest of Postgres, as the replies finished so far
 * must get out from signal handlers and from PANIC too: only then is the
 * request at the head of the queue the one that failed.
 */
#include "postgres.h"

#include <unistd.h>

#include "zenith_walredo.h"

#define INPUT_INITIAL_SIZE	(1024 * 1024)
#define REPLY_BUFFER_SIZE	(16 * (BLCKSZ + sizeof(uint32)))

static char *input = NULL;
static size_t input_size = 0;
static size_t input_head = 0;	/* first byte not taken yet */
static size_t input_tail = 0;	/* end of the bytes read */

static char replies[REPLY_BUFFER_SIZE];
static size_t replies_used = 0;

static void write_all(int fd, const char *data, size_t size);
static bool input_fill(size_t size);

void
pipe_init(void)
{
	input = malloc(INPUT_INITIAL_SIZE);
	if (input == NULL)
	{
		pipe_complain("WAL redo: out of memory for the input buffer");
		redo_exit(REDO_EXIT_STARTUP);
	}
	input_size = INPUT_INITIAL_SIZE;
}

/* Waits for the next byte; true if the other side has closed instead. */
bool
pipe_at_end(void)
{
	return !input_fill(1);
}

/*
 * Takes the next bytes of input.  The result is valid until the next call and
 * may have any alignment.
 */
const char *
pipe_take(size_t size)
{
	const char *data;

	if (!input_fill(size))
	{
		pipe_complain("WAL redo: input ended in the middle of a request");
		redo_exit(REDO_EXIT_PROTOCOL);
	}
	data = input + input_head;
	input_head += size;
	return data;
}

/* Room for a reply; it counts once pipe_commit_reply() is called. */
char *
pipe_reserve_reply(size_t size)
{
	if (replies_used + size > REPLY_BUFFER_SIZE)
		pipe_flush();
	return replies + replies_used;
}

void
pipe_commit_reply(size_t size)
{
	replies_used += size;
}

void
pipe_flush(void)
{
	size_t		size = replies_used;

	/* Reset first: a signal during the write must not write it twice. */
	replies_used = 0;
	if (size > 0)
		write_all(STDOUT_FILENO, replies, size);
}

/* One line to the log, safe in signal handlers. */
void
pipe_complain(const char *text)
{
	write_all(STDERR_FILENO, text, strlen(text));
	write_all(STDERR_FILENO, "\n", 1);
}

/*
 * The only way out.  Not exit(): callbacks of Postgres would try to remove
 * files, which the sandbox forbids and the owner of the directory does anyway.
 */
void
redo_exit(int code)
{
	_exit(code);
}

/*
 * Makes sure that `size` bytes lie together behind input_head.  Returns false
 * if the input ends before.
 */
static bool
input_fill(size_t size)
{
	while (input_tail - input_head < size)
	{
		ssize_t		got;

		if (input_head == input_tail)
			input_head = input_tail = 0;
		else if (input_head + size > input_size)
		{
			memmove(input, input + input_head, input_tail - input_head);
			input_tail -= input_head;
			input_head = 0;
		}
		if (size > input_size)
		{
			size_t		new_size = input_size;
			char	   *bigger;

			while (new_size < size)
				new_size *= 2;
			bigger = realloc(input, new_size);
			if (bigger == NULL)
			{
				pipe_complain("WAL redo: out of memory for a long record");
				redo_exit(REDO_EXIT_FAILED);
			}
			input = bigger;
			input_size = new_size;
		}

		pipe_flush();
		got = read(STDIN_FILENO, input + input_tail, input_size - input_tail);
		if (got == 0)
			return false;
		if (got < 0)
		{
			if (errno == EINTR)
				continue;
			pipe_complain("WAL redo: could not read from stdin");
			redo_exit(REDO_EXIT_PIPE);
		}
		input_tail += got;
	}
	return true;
}

static void
write_all(int fd, const char *data, size_t size)
{
	while (size > 0)
	{
		ssize_t		written = write(fd, data, size);

		if (written < 0)
		{
			if (errno == EINTR)
				continue;
			redo_exit(REDO_EXIT_PIPE);
		}
		data += written;
		size -= written;
	}
}
