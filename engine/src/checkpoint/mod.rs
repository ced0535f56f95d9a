//! Everything needed to continue bit for bit.
