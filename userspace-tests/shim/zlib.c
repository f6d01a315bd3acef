// SPDX-License-Identifier: GPL-2.0-only
/*
 * The kernel's inflate, over libz.
 */

#include <zlib.h>
/* The kernel's header has some of these names too. */
#undef Z_OK
#undef Z_STREAM_END
#undef Z_BUF_ERROR
#undef Z_FINISH
#undef MAX_WBITS
#include <linux/zlib.h>
#undef z_stream

/* libz takes its state and the window from this, 32 KiB and a little less. */
#define ARENA_BYTES	(64 << 10)

struct workspace {
	z_stream stream;
	size_t used;
	unsigned char arena[ARENA_BYTES] __attribute__((aligned(16)));
};

static void *take(void *opaque, unsigned int items, unsigned int bytes)
{
	struct workspace *ws = opaque;
	size_t total = ((size_t)items * bytes + 15) & ~(size_t)15;
	void *memory = ws->arena + ws->used;

	if (total > ARENA_BYTES - ws->used)
		return NULL;
	ws->used += total;
	return memory;
}

static void give_back(void *opaque, void *memory)
{
	(void)opaque;
	(void)memory;
}

int zlib_inflate_workspacesize(void)
{
	return sizeof(struct workspace);
}

int zlib_inflateInit2(struct kernel_z_stream *stream, int window_bits)
{
	struct workspace *ws = stream->workspace;

	ws->used = 0;
	ws->stream = (z_stream){
		.zalloc = take,
		.zfree = give_back,
		.opaque = ws,
	};
	return inflateInit2(&ws->stream, window_bits);
}

int zlib_inflate(struct kernel_z_stream *stream, int flush)
{
	z_stream *z = &((struct workspace *)stream->workspace)->stream;
	int ret;

	z->next_in = (unsigned char *)stream->next_in;
	z->avail_in = stream->avail_in;
	z->next_out = stream->next_out;
	z->avail_out = stream->avail_out;
	ret = inflate(z, flush);
	stream->next_in = z->next_in;
	stream->avail_in = z->avail_in;
	stream->next_out = z->next_out;
	stream->avail_out = z->avail_out;
	return ret;
}

int zlib_inflateEnd(struct kernel_z_stream *stream)
{
	return inflateEnd(&((struct workspace *)stream->workspace)->stream);
}
