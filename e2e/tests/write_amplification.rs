//! First writes cost what they write: no zeroing, no copying of whole extents; neither into a new
//! volume nor after a snapshot.

mod support;

use lunar_lab::LunSpec;
use support::{GIB, MIB, lab, make_pool, must, product, session, volume};

const WRITES: u64 = 10_000;

#[test]
fn ten_thousand_random_first_writes_cost_at_most_a_third_more() {
    // Each of the two times touches all extents of the volume.
    let lab = lab([LunSpec::new(8 * GIB), LunSpec::new(8 * GIB)]);
    let daemons = product(&lab);
    let session = session(&lab);
    must(&daemons, make_pool(&session, &lab));
    let device = must(&daemons, volume(&session, "v", "6GiB"));
    let write = |what: &str| {
        let before = lun_bytes(&lab);
        let bytes = WRITES * 4096;
        must(
            &daemons,
            session.quiet(&format!(
                "fio --name=first --filename={device} --direct=1 --ioengine=libaio --rw=randwrite \
                 --bs=4k --iodepth=16 --io_size={bytes} --end_fsync=1 --minimal > /dev/null"
            )),
        );
        must(&daemons, session.quiet("lunar volume map v --checkpoint > /dev/null"));
        let written = lun_bytes(&lab) - before;
        let ratio = written as f64 / bytes as f64;
        println!(
            "{WRITES} random first writes of 4 KiB {what}: {} MiB by fio, {} MiB on the LUNs, \
             {ratio:.3}",
            bytes / MIB,
            written / MIB
        );
        assert!(ratio <= 1.3, "the ratio {what} is {ratio:.3}, more than 1.3");
    };
    write("into a new volume");
    // The same blocks again: fio's random sequence is the same each time.
    must(&daemons, session.quiet("lunar snapshot create v s"));
    write("after a snapshot");
    must(&daemons, session.quiet("lunar volume detach v"));
    must(&daemons, session.quiet("lunar fsck"));
    lab.down();
}

/// Bytes written to all LUNs since the machine booted, as its kernel counts them.
fn lun_bytes(lab: &lunar_lab::Lab) -> u64 {
    let stat = |lun| lab.node(0).lun_stat(lun).expect("the LUN is there").written_bytes;
    lab.luns().iter().map(stat).sum()
}
