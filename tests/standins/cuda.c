/* A stand-in for libcuda.so.1: one GPU, 13.0. STANDIN_CUDA: ok, init:N, hang, crash. CUDA_VISIBLE_DEVICES=-1 hides it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static const char *mode(void) { const char *m = getenv("STANDIN_CUDA"); return m ? m : "ok"; }
static int hidden(void) { const char *v = getenv("CUDA_VISIBLE_DEVICES"); return v && strcmp(v, "-1") == 0; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuInit(unsigned flags) {
  (void)flags;
  if (strcmp(mode(), "hang") == 0) for (;;) pause();
  if (strcmp(mode(), "crash") == 0) abort();
  if (strncmp(mode(), "init:", 5) == 0) return atoi(mode() + 5);
  return hidden() ? 100 : 0;
}
int cuGetErrorName(int code, const char **name) {
  switch (code) {
    case 0: *name = "CUDA_SUCCESS"; return 0;
    case 100: *name = "CUDA_ERROR_NO_DEVICE"; return 0;
    case 802: *name = "CUDA_ERROR_SYSTEM_NOT_READY"; return 0;
    case 803: *name = "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"; return 0;
    case 804: *name = "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE"; return 0;
    default: *name = 0; return 1;
  }
}
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetName(char *name, int n, int device) { (void)device; snprintf(name, n, "NVIDIA Stand-in"); return 0; }
int cuDeviceGetAttribute(int *value, int which, int device) { (void)device; *value = which == 75 ? 12 : 0; return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { (void)device; *bytes = 32ull << 30; return 0; }
int cuDeviceGetPCIBusId(char *out, int n, int device) { (void)device; snprintf(out, n, "0000:01:00.0"); return 0; }
int cuDeviceGetUuid_v2(unsigned char *out, int device) {
  static const unsigned char uuid[16] = {0x11,0x11,0x11,0x11,0x22,0x22,0x43,0x33,0x84,0x44,0x55,0x55,0x55,0x55,0x55,0x55};
  (void)device; memcpy(out, uuid, 16); return 0;
}
