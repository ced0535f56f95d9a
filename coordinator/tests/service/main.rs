//! The coordinator as users and agents meet it: real gRPC, a real log on disk, and an agent that only pretends to train.

mod agent;
mod blobs;
mod jobs;
mod refusals;
mod rig;
