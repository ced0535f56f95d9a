//! A recipe as it lies on the user's disk: paths beside it, sizes, and what must be uploaded.
//!
//! ```text
//!   recipe.yaml ─▶ RecipeOnDisk ─▶ Planned (recipe fitted to its model, paths, estimates) ─▶ JobSpec
//!                                                                        files ─▶ blobs ──┘
//! ```

mod data;
mod disk;
mod inputs;
mod planned;

pub(crate) use disk::RecipeOnDisk;
pub(crate) use inputs::{InputFile, upload};
pub(crate) use planned::Planned;
