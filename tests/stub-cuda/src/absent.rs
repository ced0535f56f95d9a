//! What cudarc's code names and no training of ours calls: it must be there when a program is loaded, and says so
//! when it is called.

use std::ffi::c_uint;

use crate::status::Error;

/// A C function may be called with more arguments than it looks at.
macro_rules! absent {
    ($status:expr => $($name:ident)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $name() -> c_uint {
            eprintln!("stub-cuda: {} is not there", stringify!($name));
            $status
        }
    )*};
}

absent! { Error::NotSupported as c_uint =>
    cuCtxCreate_v4 cuCtxDestroy_v2 cuCtxGetCacheConfig cuCtxGetLimit cuCtxGetStreamPriorityRange
    cuCtxSetCacheConfig cuCtxSetFlags cuCtxSetLimit cuDestroyExternalMemory cuDeviceSetMemPool
    cuExternalMemoryGetMappedBuffer cuFuncGetAttribute cuFuncSetAttribute cuFuncSetCacheConfig cuGraphDestroy
    cuGraphExecDestroy cuGraphInstantiateWithFlags cuGraphLaunch cuGraphUpload cuImportExternalMemory
    cuLaunchCooperativeKernel cuMemAdvise_v2 cuMemAllocManaged cuMemFreeHost cuMemHostAlloc cuMemPoolCreate
    cuMemPoolDestroy cuMemPrefetchAsync_v2 cuMemcpyPeerAsync cuModuleGetGlobal_v2 cuModuleLoad
    cuOccupancyAvailableDynamicSMemPerBlock cuOccupancyMaxActiveBlocksPerMultiprocessor
    cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags cuOccupancyMaxActiveClusters
    cuOccupancyMaxPotentialBlockSize cuOccupancyMaxPotentialBlockSizeWithFlags cuOccupancyMaxPotentialClusterSize
    cuProfilerStart cuProfilerStop cuStreamAttachMemAsync cuStreamBeginCapture_v2 cuStreamEndCapture
}

// CUBLAS_STATUS_NOT_SUPPORTED.
absent! { 15 =>
    cublasDasum_v2 cublasDgemv_v2 cublasGemmGroupedBatchedEx cublasSasum_v2 cublasSgemv_v2
}
