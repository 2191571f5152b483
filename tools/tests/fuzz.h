/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * What libFuzzer calls; the Makefile gives it the name that it looks for.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stddef.h>
#include <stdint.h>

int fuzz(const uint8_t *data, size_t size);

#endif /* FUZZ_H */
