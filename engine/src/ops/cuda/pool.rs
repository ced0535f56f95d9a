//! The driver's pool, which tensors on a card are cut from.

use std::ffi::c_void;
use std::fmt;
use std::sync::Arc;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::result::{device, mem_pool};
use candle_core::cuda_backend::cudarc::driver::sys::{CUmemPool_attribute, CUmemoryPool};
use candle_core::cuda_backend::cudarc::driver::{CudaContext, DriverError};
use fleetune_shared::{Device, runtime_bytes};

use crate::Result;
use crate::memory::Counter;

/// A card's pool. It counts tensors; what the driver takes besides is added as estimates have it, for nobody counts that.
pub(super) struct Pool {
    context: Arc<CudaContext>,
    pool: CUmemoryPool,
    besides: u64,
}

#[expect(unsafe_code, reason = "a handle of the driver's")]
// SAFETY: the driver may be asked about a pool from any thread; the pool is the card's own and lives as long as it.
unsafe impl Send for Pool {}
#[expect(unsafe_code, reason = "as above")]
// SAFETY: as above.
unsafe impl Sync for Pool {}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

impl Pool {
    /// The pool of the card of `context`, told to keep what is given back for the next step; `None` on a card whose
    /// driver has none: nothing is counted there.
    pub(super) fn of(context: Arc<CudaContext>) -> Result<Option<Self>> {
        if !context.has_async_alloc() {
            return Ok(None);
        }
        context.bind_to_thread().w()?;
        #[expect(unsafe_code, reason = "asks the driver")]
        // SAFETY: the device is that of a context that is open.
        let pool = unsafe { device::get_default_mem_pool(context.cu_device()) }.w()?;
        let pool = Self { context, pool, besides: runtime_bytes(Device::Cuda).0 };
        pool.set(CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, u64::MAX).w()?;
        Ok(Some(pool))
    }

    fn get(&self, attribute: CUmemPool_attribute) -> Result<u64, DriverError> {
        let mut value = 0u64;
        self.context.bind_to_thread()?;
        let to: *mut c_void = (&raw mut value).cast();
        #[expect(unsafe_code, reason = "asks the driver")]
        // SAFETY: the pool is the card's; the attributes asked for are 64 bits wide.
        unsafe { mem_pool::get_attribute(self.pool, attribute, to) }?;
        Ok(value)
    }

    fn set(&self, attribute: CUmemPool_attribute, mut value: u64) -> Result<(), DriverError> {
        self.context.bind_to_thread()?;
        let from: *mut c_void = (&raw mut value).cast();
        #[expect(unsafe_code, reason = "tells the driver")]
        // SAFETY: as in `get`.
        unsafe {
            mem_pool::set_attribute(self.pool, attribute, from)
        }
    }
}

impl Counter for Pool {
    fn current(&self) -> u64 {
        self.besides + self.get(CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT).unwrap_or(0)
    }

    fn peak(&self) -> u64 {
        self.besides + self.get(CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH).unwrap_or(0)
    }

    fn forget_peak(&self) {
        // The driver takes no other value, and goes on from what is held. A driver that fails says so at the next launch.
        let _ = self.set(CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH, 0);
    }

    fn total(&self) -> u64 {
        self.context.total_mem().map_or(0, |bytes| bytes as u64)
    }
}
