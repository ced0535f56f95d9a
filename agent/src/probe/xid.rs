//! Errors that a driver reports by NVIDIA's numbers, Xid.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use tracing::{debug, warn};

/// How long one wait lasts; then it is seen whether anybody still wants to know.
const WAIT_MS: u32 = 500;

/// Errors of a program, not of the card: an exception in its kernels, a bad address, a channel that was torn down with
/// it. <https://docs.nvidia.com/deploy/xid-errors/>
const OF_PROGRAMS: [u64; 6] = [13, 31, 43, 45, 68, 109];

/// What the driver uses where it has no number.
const UNKNOWN: u64 = 999;

/// The last error of a card; a thread waits for the next.
#[derive(Debug)]
pub(super) struct Xids(Arc<AtomicU64>);

impl Xids {
    /// Begins to listen. A driver that cannot tell is never heard of.
    pub(super) fn listen(nvml: &Arc<Nvml>, uuid: &str) -> Self {
        let last = Arc::new(AtomicU64::new(0));
        let (nvml, uuid, heard) = (Arc::clone(nvml), uuid.to_owned(), Arc::downgrade(&last));
        let listener = thread::Builder::new().name("xid".into()).spawn(move || {
            while heard.strong_count() > 0 {
                match wait(&nvml, &uuid, &heard) {
                    Ok(()) => {}
                    Err(NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_)) => {
                        return debug!("the driver does not tell of errors");
                    }
                    // The card may come back.
                    Err(_) => thread::sleep(Duration::from_secs(1)),
                }
            }
        });
        if let Err(error) = listener {
            warn!("nobody listens to the driver's errors: {error}");
        }
        Self(last)
    }

    pub(super) fn last(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|xid| *xid != 0)
    }
}

/// Waits for errors until nobody wants to know, or the driver fails.
fn wait(nvml: &Nvml, uuid: &str, heard: &Weak<AtomicU64>) -> Result<(), NvmlError> {
    let device = nvml.device_by_uuid(uuid)?;
    let set = nvml.create_event_set()?;
    let set =
        device.register_events(EventTypes::CRITICAL_XID_ERROR, set).map_err(|error| error.error)?;
    while let Some(last) = heard.upgrade() {
        let xid = match set.wait(WAIT_MS) {
            Ok(event) => match event.event_data {
                Some(XidError::Value(xid)) => xid,
                Some(XidError::Unknown) => UNKNOWN,
                None => continue,
            },
            Err(NvmlError::Timeout) => continue,
            Err(error) => return Err(error),
        };
        if OF_PROGRAMS.contains(&xid) {
            debug!("Xid {xid}: a program's own error");
        } else {
            warn!("the driver reported error Xid {xid}");
            last.store(xid, Ordering::Relaxed);
        }
    }
    Ok(())
}
