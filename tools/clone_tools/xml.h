/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Reading what clone_dump writes, see xml.c.
 */
#ifndef XML_H
#define XML_H

struct state;

/*
 * What goes wrong is said.  Returns 0 or a negative errno; then there is no
 * state.
 */
int read_xml(struct state *s, const char *path);

/* The same for what is open; @name is for messages. */
int read_xml_fd(struct state *s, int fd, const char *name);

#endif /* XML_H */
