//! The node service, as kubelet and fs-core see it: the program itself, on real loop devices and
//! real mounts, with an fs-core that the test plays.
//!
//! Needs root, loop devices, and the packages e2fsprogs, xfsprogs and util-linux; without them the
//! tests fail and say so. Each test has a mount namespace of its own, which takes its mounts along
//! when it ends, also by a panic.

mod cancelled;
mod content;
mod exclusive;
mod fscore;
mod hostile;
mod killed;
mod life;
mod loops;
mod paths;
mod sizes;
mod stale;
mod trim;
mod worker;
mod world;
