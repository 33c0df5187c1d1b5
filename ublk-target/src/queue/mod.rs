//! One queue of a device: a thread, a ring, and the request buffers.
//!
//! - [`buffers`]: the memory that requests carry their data in;
//! - [`commands`], [`request`]: what the ublk driver says and is told;
//! - [`ring`]: the io_uring of a queue, with a backlog for when it is full;
//! - [`lun_io`]: LUN I/O under way on a ring, resubmitted when the device moved less;
//! - [`waker`]: wakes the thread from elsewhere; [`wake_read`]: how its ring hears that;
//! - [`rest`]: a device whose queues take nothing in, before it is given away;
//! - [`waiting`]: the thread's loop while another node owns the volume;
//! - [`server`]: the thread's loop between the ublk driver, the engine and the LUNs.

pub mod buffers;
pub mod commands;
pub mod lun_io;
pub mod request;
pub mod rest;
pub mod ring;
pub mod server;
pub mod waiting;
pub mod wake_read;
pub mod waker;
