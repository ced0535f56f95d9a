//! A card of NVIDIA's, through candle's device.

use std::sync::{Arc, Mutex};

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{
    DevicePtr, DevicePtrMut, LaunchConfig, PushKernelArg,
};
use candle_core::cuda_backend::cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};
use candle_core::cuda_backend::{CudaDevice, WrapErr};
use candle_core::{
    CpuStorage, CudaStorage, DType, Device, Error, InplaceOp1, Layout, Storage, Tensor,
};

use super::launch::{Arg, Card, THREADS, Word};
use super::pool::Pool;
use super::source::SOURCE;
use crate::Result;
use crate::memory::Counter;

/// The name candle keeps the module under.
const MODULE: &str = "fleetune";

/// A card and its kernels.
#[derive(Debug)]
pub(super) struct Gpu {
    device: Device,
    cuda: CudaDevice,
    ptx: String,
    pool: Option<Arc<Pool>>,
}

impl Gpu {
    /// Opens card `ordinal` and compiles the kernels for it, in about a second.
    pub(super) fn open(ordinal: usize) -> Result<Self> {
        let device = Device::new_cuda(ordinal)?;
        let cuda = device.as_cuda_device()?.clone();
        let context = cuda.cuda_stream().context().clone();
        let (major, minor) = context.compute_capability().w()?;
        let options = CompileOptions {
            // A card rounds as the CPU does.
            fmad: Some(false),
            options: vec![
                "--std=c++17".into(),
                format!("--gpu-architecture=compute_{major}{minor}"),
            ],
            name: Some("fleetune.cu".into()),
            ..CompileOptions::default()
        };
        let ptx = compile_ptx_with_opts(SOURCE, options)
            .map_err(|e| Error::Cuda(format!("kernels for compute_{major}{minor}: {e}").into()))?;
        Ok(Self { device, cuda, ptx: ptx.to_src(), pool: Pool::of(context)?.map(Arc::new) })
    }

    /// Where a tensor's numbers begin. The address stays good while the tensor lives. candle's stream is the calling
    /// thread's, so one thread drives a card, and what it queues later finds what it queued before.
    fn address(&self, tensor: &Tensor, written: bool) -> candle_core::Result<u64> {
        if written {
            let taken = Taken { device: &self.cuda, address: Mutex::new(0) };
            tensor.inplace_op1(&taken)?;
            return Ok(taken
                .address
                .into_inner()
                .unwrap_or_else(std::sync::PoisonError::into_inner));
        }
        let (storage, layout) = tensor.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else {
            return Err(Error::Msg("a tensor on the CPU in a kernel on a card".into()));
        };
        macro_rules! address {
            ($type:ty) => {
                storage.as_cuda_slice::<$type>()?.device_ptr(&self.cuda.cuda_stream()).0
            };
        }
        let base = match storage.dtype() {
            DType::U8 => address!(u8),
            DType::U32 => address!(u32),
            DType::BF16 => address!(half::bf16),
            DType::F32 => address!(f32),
            DType::F64 => address!(f64),
            other => return Err(Error::Msg(format!("a tensor of {other:?} in a kernel"))),
        };
        Ok(offset(base, layout, storage.dtype()))
    }
}

fn offset(base: u64, layout: &Layout, dtype: DType) -> u64 {
    base + (layout.start_offset() * dtype.size_in_bytes()) as u64
}

/// candle lends a tensor's storage for writing only inside such an operation.
struct Taken<'a> {
    device: &'a CudaDevice,
    address: Mutex<u64>,
}

impl InplaceOp1 for Taken<'_> {
    fn name(&self) -> &'static str {
        "kernel"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> candle_core::Result<()> {
        Err(Error::Msg("a tensor on the CPU in a kernel on a card".into()))
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> candle_core::Result<()> {
        let dtype = storage.dtype();
        let stream = self.device.cuda_stream();
        macro_rules! address {
            ($type:ty) => {
                storage.as_cuda_slice_mut::<$type>()?.device_ptr_mut(&stream).0
            };
        }
        let base = match dtype {
            DType::U8 => address!(u8),
            DType::BF16 => address!(half::bf16),
            DType::F32 => address!(f32),
            DType::F64 => address!(f64),
            other => return Err(Error::Msg(format!("a tensor of {other:?} written by a kernel"))),
        };
        let mut address = self.address.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *address = offset(base, layout, dtype);
        Ok(())
    }
}

impl Card for Gpu {
    fn device(&self) -> &Device {
        &self.device
    }

    fn counter(&self) -> Option<Arc<dyn Counter>> {
        self.pool.clone().map(|pool| pool as Arc<dyn Counter>)
    }

    fn queue(&self, kernel: &'static str, blocks: usize, args: &[Arg<'_>]) -> Result<()> {
        let words: Vec<Word> = args
            .iter()
            .map(|arg| arg.word(|tensor, written| self.address(tensor, written)))
            .collect::<candle_core::Result<_>>()?;
        let function = self.cuda.get_or_load_custom_func(kernel, MODULE, &self.ptx)?;
        let mut builder = function.builder();
        for word in &words {
            match word {
                Word::U32(number) => builder.arg(number),
                Word::U64(number) => builder.arg(number),
                Word::F32(number) => builder.arg(number),
                Word::F64(number) => builder.arg(number),
            };
        }
        let config = LaunchConfig {
            grid_dim: (u32::try_from(blocks).map_err(Error::wrap)?, 1, 1),
            block_dim: (THREADS as u32, 1, 1),
            shared_mem_bytes: 0,
        };
        #[expect(unsafe_code, reason = "the driver takes addresses")]
        // SAFETY: callers look at shapes and types first; the host shim checks the number and sizes of arguments of
        // every launch in the tests.
        unsafe {
            builder.launch(config).w()?;
        }
        Ok(())
    }
}
