/* A stand-in for libnvidia-ml.so.1 with a memory: one GPU whose one process is the pretended trainer, which writes
   "pid bytes" to the file STANDIN_STATE while it holds memory. STANDIN_GUARD is the fault, latched from call number
   STANDIN_AFTER of nvmlDeviceGetMemoryInfo on; the first time it bites, the file STANDIN_FIRED is made.
     ok; hidden (memory of processes unknown, as under WDDM); nolist (the list answers 3); empty (the list is empty);
     outer (the list names other pids, as old drivers do in a container); denied (everything answers 4);
     nothing (neither the list nor the memory of the device); lost (15), hang, segv, energy-back, no-energy, other (another process's memory instead of the trainer's). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>
#define UUID "GPU-99999999-2222-4333-8444-555555555555"
static int calls;
static int mode_is(const char *m) { const char *s = getenv("STANDIN_GUARD"); return strcmp(s ? s : "ok", m) == 0; }
static int late(void) { const char *s = getenv("STANDIN_AFTER"); return calls > (s ? atoi(s) : 0); }
static int fault(const char *m) {
  if (!mode_is(m) || !late()) return 0;
  const char *f = getenv("STANDIN_FIRED");
  if (f) { FILE *o = fopen(f, "w"); if (o) fclose(o); }
  return 1;
}
static int bad(void) {
  if (fault("hang")) for (;;) pause();
  if (fault("segv")) raise(SIGSEGV);
  if (fault("lost")) return 15;
  if (fault("denied")) return 4;
  return 0;
}
static double now(void) { struct timespec t; clock_gettime(CLOCK_REALTIME, &t); return t.tv_sec + t.tv_nsec / 1e9; }
static int holder(unsigned *pid, unsigned long long *bytes) {
  const char *path = getenv("STANDIN_STATE");
  FILE *f = path ? fopen(path, "r") : NULL;
  if (!f) return 0;
  int n = fscanf(f, "%u %llu", pid, bytes);
  fclose(f);
  return n == 2 && kill((pid_t)*pid, 0) == 0; /* a process that is gone holds nothing */
}
int nvmlInit_v2(void) { return 0; }
int nvmlInitWithFlags(unsigned flags) { (void)flags; return 0; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { static char text[32]; snprintf(text, sizeof text, "stand-in error %d", code); return text; }
int nvmlSystemGetNVMLVersion(char *out, unsigned n) { snprintf(out, n, "13.580.159.04"); return 0; }
int nvmlSystemGetDriverVersion(char *out, unsigned n) { snprintf(out, n, "580.159.04"); return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **d) { (void)i; *d = (void *)1; return 0; }
int nvmlDeviceGetHandleByUUID(const char *u, void **d) { if (strcmp(u, UUID)) return 6; *d = (void *)1; return 0; }
int nvmlDeviceGetUUID(void *d, char *out, unsigned n) { (void)d; snprintf(out, n, UUID); return 0; }
int nvmlDeviceGetName(void *d, char *out, unsigned n) { (void)d; snprintf(out, n, "NVIDIA H100 80GB HBM3"); return 0; }
int nvmlDeviceGetCudaComputeCapability(void *d, int *a, int *b) { (void)d; *a = 9; *b = 0; return 0; }
int nvmlDeviceGetMigMode(void *d, unsigned *a, unsigned *b) { (void)d; (void)a; (void)b; return 3; }
int nvmlDeviceGetPciInfo_v3(void *d, char *info) { (void)d; (void)info; return 3; }
struct memory { unsigned long long total, free, used; };
int nvmlDeviceGetMemoryInfo(void *d, struct memory *m) {
  unsigned pid; unsigned long long bytes = 0;
  (void)d; calls++;
  int code = bad(); if (code) return code;
  if (fault("nothing")) return 3;
  m->total = 80ull << 30; m->used = 16ull << 20;
  if (holder(&pid, &bytes)) m->used += bytes;
  m->free = m->total - m->used; return 0;
}
struct utilization { unsigned gpu, memory; };
int nvmlDeviceGetUtilizationRates(void *d, struct utilization *u) { (void)d; u->gpu = 50; u->memory = 10; return bad(); }
int nvmlDeviceGetPowerUsage(void *d, unsigned *mw) { (void)d; *mw = 90000; return bad(); }
int nvmlDeviceGetTotalEnergyConsumption(void *d, unsigned long long *mj) {
  static double at, joules = 10000; static int reads;
  unsigned pid; unsigned long long bytes; double t = now();
  (void)d; int code = bad(); if (code) return code;
  if (fault("no-energy")) return 3;
  if (at > 0) joules += (t - at) * (holder(&pid, &bytes) ? 490 : 90);
  at = t;
  *mj = (unsigned long long)((joules - (fault("energy-back") && ++reads % 2 ? 5000 : 0)) * 1000); return 0;
}
struct process { unsigned pid; unsigned long long used; unsigned gi, ci; };
int nvmlDeviceGetComputeRunningProcesses_v3(void *d, unsigned *count, struct process *out) {
  unsigned pid; unsigned long long bytes;
  (void)d; int code = bad(); if (code) return code;
  if (fault("nolist") || fault("nothing")) return 3;
  int held = holder(&pid, &bytes) && !fault("empty");
  if (!held) { *count = 0; return 0; }
  if (*count < 1) { *count = 1; return 7; }
  *count = 1; memset(out, 0, sizeof *out);
  out->pid = fault("outer") || fault("other") ? pid + 100000 : pid;
  out->used = fault("hidden") ? ~0ull : bytes; return 0;
}
struct sample { unsigned pid; unsigned long long at; unsigned sm, mem, enc, dec; };
int nvmlDeviceGetProcessUtilization(void *d, struct sample *out, unsigned *count, unsigned long long since_us) {
  unsigned pid; unsigned long long bytes;
  (void)d; (void)since_us; int code = bad(); if (code) return code;
  if (!holder(&pid, &bytes)) return 6;
  if (*count < 1 || !out) { *count = 1; return 7; }
  *count = 1; memset(out, 0, sizeof *out);
  out->pid = pid; out->at = (unsigned long long)(now() * 1e6); out->sm = 60; return 0;
}
