#!/bin/sh
# Builds the small binaries beside it. Needs nvcc, fatbinary and ptxas 13.0, gcc, ar and objcopy; no GPU.
# Run in this folder; the results are checked in, since the tests must run without a CUDA toolkit.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/kernel.cu" <<'CU'
extern "C" __global__ void scale(float *x, float a) { x[blockIdx.x * blockDim.x + threadIdx.x] *= a; }
CU
echo 'int host_only(void) { return 1; }' > "$work/host.cu"
cat > "$work/mixed.cu" <<'CU'
extern "C" __global__ void scale(float *x, float a) { x[blockIdx.x * blockDim.x + threadIdx.x] *= a; }
extern "C" int host(void) { float *x = 0; scale<<<1, 32>>>(x, 2.0f); return 0; }
CU
sass() { echo "-gencode arch=compute_$1,code=sm_$1"; }
here=$(pwd)
cd "$work"

# Raw containers: every kind of target, each compression, and a unit without kernels.
nvcc -fatbin $(sass 75) $(sass 90a) $(sass 100f) $(sass 120) -gencode arch=compute_120,code=compute_120 \
     -gencode arch=compute_120f,code=compute_120f kernel.cu -o targets.fatbin
nvcc -fatbin -gencode arch=compute_75,code=lto_75 $(sass 80) kernel.cu -o lto.fatbin
nvcc -fatbin host.cu -o default_arch.fatbin
for mode in none speed size; do
  nvcc -fatbin --compress-mode=$mode -gencode arch=compute_80,code='[sm_80,compute_80]' kernel.cu -o compress_$mode.fatbin
done

# Raw cubins with each suffix, and PTX text.
for target in 75 90a 100f 100a 120; do nvcc -cubin -arch=sm_$target kernel.cu -o sm_$target.cubin; done
nvcc -ptx -arch=compute_103a kernel.cu -o compute_103a.ptx

# A shared library, a relocatable object, an archive of it, and a library with a container no section announces.
nvcc -shared -Xcompiler -fPIC -Xlinker -s -cudart none -Xlinker --unresolved-symbols=ignore-all $(sass 80) $(sass 86) mixed.cu -o library.so
nvcc -dc -Xcompiler -fPIC $(sass 80) mixed.cu -o relocatable.o
nvcc -c -Xcompiler -fPIC $(sass 80) mixed.cu -o object.o
ar rcD archive.a object.o relocatable.o
echo 'int nothing(void) { return 0; }' > nothing.c
gcc -shared -fPIC -s nothing.c -o host_only.so
head -c 16 /dev/zero | cat - targets.fatbin sm_90a.cubin > resource.bin
gcc -c -fPIC nothing.c -o nothing.o
objcopy --add-section .cask_resource=resource.bin --set-section-flags .cask_resource=alloc,readonly,data,contents \
        --set-section-alignment .cask_resource=16 nothing.o outside.o
gcc -shared -s outside.o -o outside.so

# Several images in one compressed entry: needs fatbinary and ptxas of 13.5 (the PyPI package nvidia-cuda-nvcc), in
# the folder NVCC_13_5. Without it the file that is checked in stays as it is.
if [ -n "${NVCC_13_5:-}" ]; then
  nvcc -ptx -arch=compute_75 kernel.cu -o kernel.ptx
  images=''
  for target in 75 80 86 90 100a 120; do
    "$NVCC_13_5/ptxas" -arch=sm_$target kernel.ptx -o part_$target.o
    images="$images --image3=kind=elf,sm=$target,file=part_$target.o"
  done
  # shellcheck disable=SC2086
  "$NVCC_13_5/fatbinary" --create=concat.fatbin --concat -64 $images --image3=kind=ptx,sm=75,file=kernel.ptx
fi

cp ./*.fatbin sm_*.cubin compute_103a.ptx library.so relocatable.o archive.a host_only.so outside.so "$here"
