/* A stand-in for libnvidia-ml.so.1: one GPU, and the ways a driver fails, chosen by STANDIN_NVML:
   ok, init:N (nvmlInit answers N), hang, crash, hang-devices, lost (the device list fails with 15), none (no GPU),
   mig (split in two), mig-closed (split, the parts may not be listed),
   skewed (the process list in another layout, as some drivers have it),
   mps (one client of MPS beside the server),
   refuses (capability and memory answer 3), old (no third version of the process list), late-hang (every reading hangs). */
#include <stdlib.h>
#include <string.h>
#include <stdio.h>
#include <unistd.h>
#define UUID "GPU-11111111-2222-4333-8444-555555555555"
static const char *mode(void) { const char *m = getenv("STANDIN_NVML"); return m ? m : "ok"; }
static int is(const char *m) { return strcmp(mode(), m) == 0; }
static void hang(void) { for (;;) pause(); }
static int start(void) {
  if (is("hang")) hang();
  if (is("crash")) abort();
  if (strncmp(mode(), "init:", 5) == 0) return atoi(mode() + 5);
  return 0;
}
int nvmlInit_v2(void) { return start(); }
int nvmlInitWithFlags(unsigned flags) { (void)flags; return start(); }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { static char text[32]; snprintf(text, sizeof text, "stand-in error %d", code); return text; }
int nvmlSystemGetNVMLVersion(char *out, unsigned n) { snprintf(out, n, "13.580.159.04"); return 0; }
int nvmlSystemGetDriverVersion(char *out, unsigned n) { snprintf(out, n, "580.159.04"); return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = is("none") ? 0 : 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
  (void)index;
  if (is("hang-devices")) hang();
  if (is("lost")) return 15;
  *device = (void *)0x1; return 0;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
  if (strcmp(uuid, UUID)) return 6;
  *device = (void *)0x1; return 0;
}
int nvmlDeviceGetUUID(void *d, char *out, unsigned n) { snprintf(out, n, d == (void *)0x1 ? UUID : "MIG-%lu", (unsigned long)d); return 0; }
int nvmlDeviceGetName(void *d, char *out, unsigned n) { (void)d; snprintf(out, n, "NVIDIA Stand-in"); return 0; }
int nvmlDeviceGetCudaComputeCapability(void *d, int *major, int *minor) { (void)d; if (is("refuses")) return 3; *major = 12; *minor = 0; return 0; }
int nvmlDeviceGetMigMode(void *d, unsigned *now, unsigned *next) {
  (void)d;
  if (strncmp(mode(), "mig", 3)) return 3;
  *now = *next = 1; return 0;
}
int nvmlDeviceGetMaxMigDeviceCount(void *d, unsigned *count) { (void)d; *count = 7; return 0; }
int nvmlDeviceGetMigDeviceHandleByIndex(void *d, unsigned index, void **part) {
  (void)d;
  if (is("mig-closed")) return 4;
  if (index != 0 && index != 4) return 6;
  *part = (void *)(unsigned long)(0x10 + index); return 0;
}
int nvmlDeviceGetPciInfo_v3(void *d, char *info) { (void)d; (void)info; return 3; }
struct memory { unsigned long long total, free, used; };
int nvmlDeviceGetMemoryInfo(void *d, struct memory *m) {
  if (is("refuses")) return 3;
  m->total = (d == (void *)0x1 ? 32ull : 8ull) << 30; m->used = 1ull << 30; m->free = 31ull << 30; return 0;
}
struct utilization { unsigned gpu, memory; };
int nvmlDeviceGetUtilizationRates(void *d, struct utilization *u) { (void)d; if (is("late-hang")) hang(); u->gpu = 7; u->memory = 3; return 0; }
int nvmlDeviceGetPowerUsage(void *d, unsigned *mw) { (void)d; if (is("refuses")) return 3; *mw = 39000; return 0; }
struct process { unsigned pid; unsigned long long used; unsigned gi, ci; };
static int list(unsigned *count, struct process *out) {
  if (*count < 2) { *count = 2; return 7; }
  out[0].pid = 4242; out[0].used = 512ull << 20;
  if (is("skewed")) out[0].used = 4343ull << 32;
  out[1].pid = 4343; out[1].used = ~0ull; /* hidden, as under WDDM */
  *count = 2; return 0;
}
int nvmlDeviceGetComputeRunningProcesses_v2(void *d, unsigned *count, struct process *out) { (void)d; return list(count, out); }
int nvmlDeviceGetMPSComputeRunningProcesses_v3(void *d, unsigned *count, struct process *out) {
  (void)d;
  if (!is("mps")) { *count = 0; return 0; }
  if (*count < 1) { *count = 1; return 7; }
  out[0].pid = 5555; out[0].used = 64ull << 20; *count = 1; return 0;
}
#ifndef OLD
int nvmlDeviceGetComputeRunningProcesses_v3(void *d, unsigned *count, struct process *out) { (void)d; return list(count, out); }
#endif
