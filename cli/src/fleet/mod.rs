//! What several verbs do with a fleet: pick jobs, submit them, follow them, fetch results, run parts of it here.

mod follow;
mod local;
mod pull;
mod selector;
mod submission;
mod user;

pub(crate) use follow::{Crowd, Following, evaluated, follow, follow_all, told};
pub(crate) use local::{LocalAgent, LocalCoordinator, asked_to_stop, data_folder, listen_to_log};
pub(crate) use pull::{pull, result_of};
pub(crate) use selector::Selector;
pub(crate) use submission::submit;
pub(crate) use user::own_user;
