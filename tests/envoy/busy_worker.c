// Preloaded into Envoy, keeps one of its workers busy for as long as another process says so in a file: the worker comes to
// none of its events meanwhile, as if one of them took that long.

#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

// The file that BUSY_WORKER names: which worker is to be busy, counted from 1, and which one is.
struct shared {
  volatile long wanted;
  volatile long busy;
};

static struct shared *shared(void) {
  static struct shared *volatile mapped;
  if (!mapped) {
    const char *path = getenv("BUSY_WORKER");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0) return NULL;
    void *page = mmap(NULL, sizeof(struct shared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (page == MAP_FAILED) return NULL;
    mapped = page;
  }
  return mapped;
}

static void be_busy(void) {
  const struct timespec moment = {.tv_nsec = 1000000};
  struct shared *page = shared();
  long wanted = page ? page->wanted : 0;
  if (!wanted) return;
  char name[32], own[16];
  snprintf(name, sizeof name, "wrk:worker_%ld", wanted - 1);
  prctl(PR_GET_NAME, own);
  if (strcmp(own, name)) return;
  page->busy = wanted;
  while (page->wanted == wanted) nanosleep(&moment, NULL);
  page->busy = 0;
}

int epoll_pwait(int epoll, struct epoll_event *events, int number, int timeout, const sigset_t *mask) {
  int result = (int)syscall(SYS_epoll_pwait, epoll, events, number, timeout, mask, 8);
  be_busy();
  return result;
}

int epoll_wait(int epoll, struct epoll_event *events, int number, int timeout) {
  return epoll_pwait(epoll, events, number, timeout, NULL);
}

int epoll_pwait2(int epoll, struct epoll_event *events, int number, const struct timespec *timeout, const sigset_t *mask) {
  int result = (int)syscall(SYS_epoll_pwait2, epoll, events, number, timeout, mask, 8);
  be_busy();
  return result;
}
