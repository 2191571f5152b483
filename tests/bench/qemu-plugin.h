/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What profile.c uses of QEMU's interface for plugins, version 1, of QEMU 4.2 to 8.
 * No package of Debian has QEMU's own header.
 */
#ifndef BENCH_QEMU_PLUGIN_H
#define BENCH_QEMU_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))

/* Adds to a counter in memory. */
#define QEMU_PLUGIN_INLINE_ADD_U64	0

/* A block of instructions that is translated and run as one. */
struct qemu_plugin_tb;

/* The plugin's: the version that it uses, and what is called when it is loaded. */
extern EXPORT int qemu_plugin_version;
EXPORT int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv);

/* QEMU's. */
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id,
					   void (*cb)(uint64_t id, struct qemu_plugin_tb *tb));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *tb, int op,
					      void *counter, uint64_t by);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);

#endif
