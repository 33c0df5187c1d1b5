//! An Ethernet switch in the lab's own process: one for each network, one port for each machine.
//!
//! QEMU connects to the socket of its port (`-netdev stream`) and sends each frame after its length
//! in four bytes, big-endian. The switch learns nothing: the lab gives out the hardware addresses.
//!
//! Invariants:
//! - a cut port passes nothing in either direction, and the machine keeps its carrier: its packets
//!   vanish, as behind a dead switch. Frames that waited in the switch at the cut vanish too;
//! - nobody waits for a machine that does not read (paused, hung): its frames are dropped when
//!   [`QUEUE_FRAMES`] of them wait;
//! - the wire is a socket in the lab's directory: no other lab, nor the host, is ever on it.

use super::{HardwareAddress, MTU_BYTES};
use crate::error::{AtPath, Result};
use crate::vm;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::thread;

/// Frames that may wait for one machine.
const QUEUE_FRAMES: usize = 1024;
/// Ethernet header, VLAN tag and some room: longer frames mean that the framing is lost.
const FRAME_BYTES_MAX: usize = MTU_BYTES + 64;
const LENGTH_BYTES: usize = 4;

type WireFrame = Arc<[u8]>;

/// The switch of one network.
#[derive(Debug, Default)]
pub(crate) struct Switch {
    ports: RwLock<Vec<Arc<Port>>>,
}

/// The place where one machine is plugged in.
#[derive(Debug)]
pub(crate) struct Port {
    address: HardwareAddress,
    socket: PathBuf,
    cut: AtomicBool,
    ended: AtomicBool,
    outbox: Mutex<Option<SyncSender<WireFrame>>>,
}

impl Switch {
    /// Adds a port with a listening socket, served until the port's end.
    pub(crate) fn add_port(
        self: &Arc<Self>,
        address: HardwareAddress,
        socket: PathBuf,
    ) -> Result<Arc<Port>> {
        let listener = UnixListener::bind(&socket).at("listen on", &socket)?;
        let port = Arc::new(Port {
            address,
            socket,
            cut: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            outbox: Mutex::default(),
        });
        self.ports.write().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&port));
        // The threads must not keep the switch alive that would end them.
        let (switch, served) = (Arc::downgrade(self), Arc::clone(&port));
        thread::spawn(move || served.serve(&listener, &switch));
        Ok(port)
    }

    fn forward(&self, from: &Port, frame: &WireFrame) {
        let Some(destination) = frame.first_chunk::<6>() else { return };
        let group = destination[0] & 1 == 1;
        for port in self.ports.read().unwrap_or_else(PoisonError::into_inner).iter() {
            if port.address != from.address && (group || port.address.0 == *destination) {
                port.deliver(frame);
            }
        }
    }
}

impl Switch {
    /// Ends the threads of all ports whose machines are off.
    pub(crate) fn end(&self) {
        for port in self.ports.read().unwrap_or_else(PoisonError::into_inner).iter() {
            port.ended.store(true, Ordering::SeqCst);
            // Wakes the thread that waits for a connection; it may be gone already.
            let _ = UnixStream::connect(&port.socket);
        }
    }
}

impl Port {
    /// Where QEMU connects to.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Stops or starts passing frames, both ways.
    pub(crate) fn set_cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::SeqCst);
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::SeqCst)
    }

    fn deliver(&self, frame: &WireFrame) {
        if self.is_cut() {
            return;
        }
        if let Some(outbox) = &*self.outbox() {
            // Full: the machine does not read, and a switch drops.
            let _ = outbox.try_send(Arc::clone(frame));
        }
    }

    fn outbox(&self) -> std::sync::MutexGuard<'_, Option<SyncSender<WireFrame>>> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One connection after the other: each boot of the machine makes a new one.
    fn serve(self: Arc<Self>, listener: &UnixListener, switch: &Weak<Switch>) {
        // Packets must not wait for machines that compute.
        vm::raise_priority();
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            if self.ended.load(Ordering::SeqCst) {
                return;
            }
            let Ok(writing) = stream.try_clone() else { return };
            let (outbox, queue) = sync_channel(QUEUE_FRAMES);
            *self.outbox() = Some(outbox);
            let port = Arc::clone(&self);
            thread::spawn(move || {
                vm::raise_priority();
                port.write_frames(writing, &queue);
            });
            // Either end of the connection may go first; the next boot makes a new one.
            let _ = self.read_frames(stream, switch);
            *self.outbox() = None;
        }
    }

    fn read_frames(&self, stream: UnixStream, switch: &Weak<Switch>) -> io::Result<()> {
        let mut reader = BufReader::with_capacity(64 << 10, stream);
        loop {
            let frame = read_frame(&mut reader)?;
            let Some(switch) = switch.upgrade() else { return Ok(()) };
            if !self.is_cut() {
                switch.forward(self, &frame);
            }
        }
    }

    fn write_frames(&self, mut stream: UnixStream, queue: &Receiver<WireFrame>) {
        let mut bytes = Vec::with_capacity(LENGTH_BYTES + FRAME_BYTES_MAX);
        for frame in queue {
            if self.is_cut() {
                continue;
            }
            let length = u32::try_from(frame.len()).expect("frames were read with a bound");
            bytes.clear();
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(&frame);
            if stream.write_all(&bytes).is_err() {
                return;
            }
        }
    }
}

fn read_frame(reader: &mut impl Read) -> io::Result<WireFrame> {
    let mut length = [0; LENGTH_BYTES];
    reader.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::other(format!("a frame of {length} bytes")));
    }
    let mut frame = vec![0; length];
    reader.read_exact(&mut frame)?;
    Ok(frame.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    struct Machine {
        port: Arc<Port>,
        stream: UnixStream,
        address: HardwareAddress,
    }

    impl Machine {
        fn plug(switch: &Arc<Switch>, directory: &Path, number: u8) -> Self {
            let address = HardwareAddress([2, 0, 0, 0, 0, number]);
            let socket = directory.join(format!("{number}.sock"));
            let port = switch.add_port(address, socket.clone()).unwrap();
            let stream = UnixStream::connect(socket).unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            // The switch knows the machine when the outbox is there.
            while port.outbox().is_none() {
                thread::yield_now();
            }
            Self { port, stream, address }
        }

        fn send(&mut self, to: [u8; 6], text: &[u8]) {
            let frame = [&to, &self.address.0, text].concat();
            let length = u32::try_from(frame.len()).unwrap().to_be_bytes();
            self.stream.write_all(&[&length[..], &frame].concat()).unwrap();
        }

        fn receive(&mut self) -> Option<Vec<u8>> {
            read_frame(&mut self.stream).ok().map(|frame| frame[12..].to_vec())
        }
    }

    #[test]
    fn frames_reach_their_machine_alone_and_groups_reach_all() {
        let directory = tempfile::tempdir().unwrap();
        let switch = Arc::new(Switch::default());
        let [mut a, mut b, mut c] = [1, 2, 3].map(|n| Machine::plug(&switch, directory.path(), n));
        a.send(b.address.0, b"to b");
        a.send([0xff; 6], b"to all");
        assert_eq!(b.receive().as_deref(), Some(&b"to b"[..]));
        assert_eq!(b.receive().as_deref(), Some(&b"to all"[..]));
        assert_eq!(c.receive().as_deref(), Some(&b"to all"[..]));
        assert_eq!(a.receive(), None, "nothing comes back to its sender");
    }

    #[test]
    fn a_cut_port_is_silent_both_ways_until_it_is_healed() {
        let directory = tempfile::tempdir().unwrap();
        let switch = Arc::new(Switch::default());
        let [mut a, mut b, mut c] = [1, 2, 3].map(|n| Machine::plug(&switch, directory.path(), n));
        b.port.set_cut(true);
        a.send(b.address.0, b"lost");
        b.send(a.address.0, b"lost");
        a.send(c.address.0, b"others go on");
        assert_eq!((a.receive(), b.receive()), (None, None));
        assert_eq!(c.receive().as_deref(), Some(&b"others go on"[..]));
        b.port.set_cut(false);
        a.send(b.address.0, b"healed");
        assert_eq!(b.receive().as_deref(), Some(&b"healed"[..]));
    }

    #[test]
    fn a_machine_that_does_not_read_holds_nobody_up_and_may_come_back() {
        let directory = tempfile::tempdir().unwrap();
        let switch = Arc::new(Switch::default());
        let [mut a, b, mut c] = [1, 2, 3].map(|n| Machine::plug(&switch, directory.path(), n));
        for _ in 0..4 * QUEUE_FRAMES {
            a.send(b.address.0, &[0; 1000]);
        }
        a.send(c.address.0, b"in time");
        assert_eq!(c.receive().as_deref(), Some(&b"in time"[..]));
        let Machine { port, stream, .. } = b;
        drop(stream);
        while port.outbox().is_some() {
            thread::yield_now();
        }
        let mut again = UnixStream::connect(port.socket()).unwrap();
        while port.outbox().is_none() {
            thread::yield_now();
        }
        a.send(port.address.0, b"welcome back");
        let frame = read_frame(&mut again).unwrap();
        assert_eq!(&frame[12..], b"welcome back");
    }
}
