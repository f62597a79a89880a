/*
 * A library to preload that damages what a transport delivers: the proof that the programs here
 * notice. Every read from another process (process_vm_readv) and every unpack of a
 * received fragment by Open MPI (opal_convertor_unpack) of at least IRONBAND_TEST_CORRUPT_BYTES bytes
 * (default 256) gets one bit flipped in the middle.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

static size_t bytes_min(void)
{
    const char *text = getenv("IRONBAND_TEST_CORRUPT_BYTES");
    return text ? (size_t)strtoull(text, NULL, 0) : 256;
}

/* Flips a bit in the middle of the longest part, if that is long enough. */
static void flip(const struct iovec *parts, unsigned long count)
{
    const struct iovec *longest = NULL;

    for (unsigned long i = 0; i < count; i++)
        if (longest == NULL || parts[i].iov_len > longest->iov_len)
            longest = &parts[i];
    if (longest != NULL && longest->iov_base != NULL && longest->iov_len >= bytes_min())
        ((unsigned char *)longest->iov_base)[longest->iov_len / 2] ^= 0x04;
}

ssize_t process_vm_readv(pid_t pid, const struct iovec *local, unsigned long locals, const struct iovec *remote,
                         unsigned long remotes, unsigned long flags)
{
    ssize_t (*next)(pid_t, const struct iovec *, unsigned long, const struct iovec *, unsigned long, unsigned long) =
        (ssize_t (*)(pid_t, const struct iovec *, unsigned long, const struct iovec *, unsigned long,
                     unsigned long))dlsym(RTLD_NEXT, "process_vm_readv");
    ssize_t done = next(pid, local, locals, remote, remotes, flags);

    if (done > 0)
        flip(local, locals);
    return done;
}

int32_t opal_convertor_unpack(void *convertor, struct iovec *parts, uint32_t *count, size_t *bytes);

int32_t opal_convertor_unpack(void *convertor, struct iovec *parts, uint32_t *count, size_t *bytes)
{
    int32_t (*next)(void *, struct iovec *, uint32_t *, size_t *) =
        (int32_t (*)(void *, struct iovec *, uint32_t *, size_t *))dlsym(RTLD_NEXT, "opal_convertor_unpack");

    flip(parts, *count);
    return next(convertor, parts, count, bytes);
}
