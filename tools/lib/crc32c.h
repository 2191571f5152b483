/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * CRC-32C (Castagnoli), as the kernel's crc32c() has it.
 */
#ifndef CLONE_CRC32C_H
#define CLONE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/*
 * Goes on with @crc over @len bytes.  The result is not inverted, and neither
 * is @crc expected to be: what is called the CRC-32C of a buffer elsewhere is
 * ~crc32c(~0, buf, len).  Safe to be called from several threads.
 */
uint32_t crc32c(uint32_t crc, const void *buf, size_t len);

#endif
