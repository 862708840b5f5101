/* Kernels that do all that kernels should not do, callable through TVM's FFI. */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/types.h>
#include <tvm/ffi/c_api.h>
#include <unistd.h>

#define KERNEL(name) int __tvm_ffi_##name(void* self, const TVMFFIAny* arguments, int32_t count, TVMFFIAny* result)

KERNEL(add_one) {
  const DLTensor* tensor = arguments[0].v_ptr;
  for (int64_t i = 0; i < tensor->shape[0]; ++i) ((float*)tensor->data)[i] += 1;
  return 0;
}

KERNEL(fail) {
  TVMFFIErrorSetRaisedFromCStr("ValueError", "this kernel says no");
  return -1;
}

KERNEL(segfault) {
  *(volatile int*)8 = 1;
  return 0;
}

KERNEL(abort) {
  abort();
  return 0;
}

KERNEL(leave) {
  _exit(3);
  return 0;
}

/* Cannot be ended gently; a file in the session's folder tells that it runs. */
KERNEL(hang) {
  signal(SIGTERM, SIG_IGN);
  close(creat("hanging", 0600));
  for (;;) pause();
  return 0;
}

/* Starts a process that outlives the session if nobody cares; returns its id. */
KERNEL(start_process) {
  const pid_t child = fork();
  if (child == 0) {
    close(STDERR_FILENO);
    for (;;) sleep(60);
  }
  result->type_index = kTVMFFIInt;
  result->zero_padding = 0;
  result->v_int64 = child;
  return 0;
}
