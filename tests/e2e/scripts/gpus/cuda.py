"""Computes on a GPU with nothing but NVIDIA's driver: a kernel in its assembly language, called through ctypes."""

import array
import ctypes
import glob

NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
# data[i] gets 1 added to it `rounds` times, for each i below `count`.
KERNEL = b"""
.version 6.0
.target sm_50
.address_size 64
.visible .entry add_ones(.param .u64 data, .param .u32 count, .param .u32 rounds)
{
    .reg .pred %p<3>;
    .reg .f32 %f<2>;
    .reg .b32 %r<8>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [data];
    ld.param.u32 %r1, [count];
    ld.param.u32 %r6, [rounds];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p1, %r5, %r1;
    @%p1 bra DONE;
    cvta.to.global.u64 %rd1, %rd1;
    mul.wide.u32 %rd2, %r5, 4;
    add.s64 %rd3, %rd1, %rd2;
    ld.global.f32 %f1, [%rd3];
    mov.u32 %r7, 0;
ROUND:
    add.f32 %f1, %f1, 0f3F800000;
    add.u32 %r7, %r7, 1;
    setp.lt.u32 %p2, %r7, %r6;
    @%p2 bra ROUND;
    st.global.f32 [%rd3], %f1;
DONE:
    ret;
}
"""


class CudaError(Exception):
    """A call of the driver failed."""


class Gpu:
    """The first GPU that this process sees, with a context and the kernel loaded."""

    def __init__(self):
        self.library = ctypes.CDLL("libcuda.so.1")
        self.call("cuInit", 0)
        device, self.context = ctypes.c_int(), ctypes.c_void_p()
        self.call("cuDeviceGet", ctypes.byref(device), 0)
        name = ctypes.create_string_buffer(100)
        self.call("cuDeviceGetName", name, 100, device)
        self.name = name.value.decode()
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(self.context), device)
        self.call("cuCtxSetCurrent", self.context)
        module, self.kernel = ctypes.c_void_p(), ctypes.c_void_p()
        self.call("cuModuleLoadData", ctypes.byref(module), KERNEL)
        self.call("cuModuleGetFunction", ctypes.byref(self.kernel), module, b"add_ones")

    def call(self, function, *arguments):
        code = getattr(self.library, function)(*arguments)
        if code:
            raise CudaError("%s answered %d" % (function, code))

    def allocate(self, size):
        address = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return address

    def total_memory(self):
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return total.value

    def add_ones(self, numbers, rounds):
        """The list `numbers` with `rounds` added to each, computed on the GPU. Any thread may call it."""
        self.call("cuCtxSetCurrent", self.context)
        data = array.array("f", numbers)
        size = ctypes.c_size_t(len(data) * data.itemsize)
        host = (ctypes.c_char * size.value).from_buffer(data)
        address = self.allocate(size.value)
        self.call("cuMemcpyHtoD_v2", address, host, size)
        count, again = ctypes.c_uint(len(data)), ctypes.c_uint(rounds)
        arguments = (ctypes.c_void_p * 3)(*(ctypes.addressof(each) for each in (address, count, again)))
        blocks = (len(data) + 255) // 256
        self.call("cuLaunchKernel", self.kernel, blocks, 1, 1, 256, 1, 1, 0, None, arguments, None)
        self.call("cuMemcpyDtoH_v2", host, address, size)
        self.call("cuMemFree_v2", address)
        return list(data)


def devices():
    """The device files of GPUs."""
    return sorted(path for path in glob.glob("/dev/nvidia*") if path[len("/dev/nvidia") :].isdigit())


def seen():
    """How many GPUs CUDA shows this process, and the code with which it began."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return {"cuda": str(error), "count": 0}
    code, count = library.cuInit(0), ctypes.c_int(0)
    if code == 0:
        library.cuDeviceGetCount(ctypes.byref(count))
    return {"cuda": code, "count": count.value}
