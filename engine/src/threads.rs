//! The threads that share the loops of an operation: rayon's, one for each core.

use rayon::{ThreadPoolBuilder, current_num_threads};

/// Makes the calling thread, which drives a run from here on, one of them. What it hands out it then begins itself,
/// instead of sleeping while another is woken and being woken again: with thousands of short operations a step, that is
/// a good part of the time.
///
/// Only for a thread that lives as long as the process; does nothing where the pool is there already or has one thread.
pub fn lead() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let wanted = std::env::var("RAYON_NUM_THREADS").ok().and_then(|count| count.parse().ok());
    if wanted.filter(|count| *count > 0).unwrap_or(cores) > 1 {
        // An error says that somebody was first.
        let _ = ThreadPoolBuilder::new().use_current_thread().build_global();
    }
    tracing::debug!(threads = current_num_threads(), "computing");
}
