//! The command line takes what it should and refuses what cannot be, with exit code 2.

use clap::CommandFactory;
use clap::error::ErrorKind;
use lunar_proto::domain::Selector;
use lunar_types::{LunId, VolumeId};

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split(' '))
}

#[test]
fn definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_of_the_manual_is_understood() {
    for line in [
        "lunar doctor",
        "lunar pool create p /dev/sdb /dev/sdc --extent-size 4MiB",
        "lunar pool add-lun p 6fa1c2d4-0b7e-4a52-9f57-3d1f0c6c2a10",
        "lunar pool list -o json",
        "lunar pool status",
        "lunar pool status p",
        "lunar lun label /dev/sdb --force-foreign 6fa1c2d4",
        "lunar lun label /dev/sdb --repair",
        "lunar lun list --all",
        "lunar lun status /dev/sdb",
        "lunar volume create v --pool p --size 10GiB --logical-block-size 512",
        "lunar volume list --pool p",
        "lunar volume show v",
        "lunar volume attach v",
        "lunar volume attach v --accept-restored",
        "lunar volume detach v --force",
        "lunar volume delete v --no-wait",
        "lunar volume map v --checkpoint",
        "lunar volume clone s v --size 20GiB",
        "lunar volume clone v w --of-volume",
        "lunar volume grow v 20GiB",
        "lunar volume grow v 20GiB --fs -o json",
        "lunar volume rollback v s",
        "lunar volume rollback v s --reattach",
        "lunar snapshot create v s",
        "lunar snapshot create v s --fsfreeze always",
        "lunar snapshot create --group v=s w=t --fsfreeze never",
        "lunar snapshot create --group v=s --group w=t",
        "lunar snapshot list",
        "lunar snapshot list --volume v -o json",
        "lunar snapshot show s",
        "lunar snapshot usage s",
        "lunar volume usage v",
        "lunar snapshot create v s --over-watermark",
        "lunar pool watermarks p",
        "lunar pool watermarks p --warning 70 --high 80 --critical 100",
        "lunar volume create v --pool p --size 1GiB --over-watermark",
        "lunar volume clone s w --over-watermark",
        "lunar volume grow v 2GiB --over-watermark",
        "lunar snapshot diff s",
        "lunar snapshot diff s t -o json",
        "lunar snapshot export s --format raw --to /tmp/s.raw",
        "lunar snapshot export t --base s --format qcow2 --base-file s.qcow2 --to t.qcow2 --resume",
        "lunar snapshot export t --base s --format stream --to - -o json",
        "lunar snapshot export s --format raw --to /dev/sdz --overwrite-device",
        "lunar snapshot import s.raw v --pool p",
        "lunar snapshot import disk.img v --pool p --unverified",
        "lunar snapshot import - --onto v",
        "lunar snapshot import - --onto v --over-watermark",
        "lunar snapshot verify /tmp/s.raw",
        "lunar snapshot delete s --no-wait",
        "lunar operation list",
        "lunar node list --metadata http://10.0.0.1:7420 --socket /tmp/s",
        "lunar fsck",
        "lunar pool release-quarantine p --confirm p",
        "lunar fsck --offline /var/lib/lunar/meta.redb",
        "lunar fsck --repair --dry-run",
        "lunar fsck --repair --findings 0123456789abcdef",
        "lunar fsck --offline /var/lib/lunar/meta.redb --repair --dry-run",
        "lunar completions bash",
        "lunar man --out /tmp/man",
    ] {
        assert!(parse(line).is_ok(), "{line}");
    }
}

#[test]
fn every_command_about_groups_and_claims_is_understood() {
    for line in [
        "lunar snapshot create --group v=s w=t --as g",
        "lunar snapshot groups",
        "lunar explain pvc db",
        "lunar explain pvc db -n shop",
        "lunar snapshot delete-group g",
    ] {
        assert!(parse(line).is_ok(), "{line}");
    }
}

#[test]
fn every_command_about_certificates_is_understood() {
    for line in [
        "lunar pool list --metadata https://meta.example:7420 --tls-ca c --tls-cert d --tls-key e",
        "lunar pki init --cluster 11111111-2222-4333-8444-555555555555 --dir /tmp/pki",
        "lunar pki issue --role node --name n1 --dns n1.example --ip 192.0.2.1 --days 90",
        "lunar pki rotate",
        "lunar pki rotate n1 n2 --now --days 30",
        "lunar pki revoke 0a1b --reason lost",
        "lunar pki revoke --cert n1.crt --reason lost",
        "lunar pki revoked",
        "lunar pki show n1.crt ca.crt -o json",
    ] {
        assert!(parse(line).is_ok(), "{line}");
    }
}

#[test]
fn a_difference_of_one_snapshot_is_what_it_has() {
    let ends = |line| match parse(line).expect("it is understood").command {
        Command::Snapshot(SnapshotCommand::Diff(DiffSnapshotsArgs { a, b })) => {
            (a.map(|a| a.0.to_string()), b.0.to_string())
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(ends("lunar snapshot diff s"), (None, "'s'".to_owned()));
    let both = (Some("'s'".to_owned()), "'t'".to_owned());
    assert_eq!(ends("lunar snapshot diff s t"), both);
    assert!(parse("lunar snapshot diff").is_err());
    assert!(parse("lunar snapshot diff s t u").is_err());
}

#[test]
fn bad_values_are_refused_and_the_reason_is_told() {
    let long = "n".repeat(129);
    for (line, reason) in [
        ("volume create v --pool p --size 0", "a volume of 0 B cannot be made"),
        ("volume create v --pool p --size 4097", "not a multiple"),
        ("volume create v --pool p --size 5PiB", "4 PiB"),
        ("volume grow v 4097", "not a multiple"),
        ("volume create v --pool p --size 10XiB", "'10XiB' is not a size"),
        ("volume create v --pool p --size 1.3B", "not a whole number of bytes"),
        ("volume create a/b --pool p --size 1GiB", "the character '/'"),
        ("volume create v --pool p --size 1GiB --logical-block-size 1024", "choose 512 or 4096"),
        (&format!("volume create {long} --pool p --size 1GiB"), "the limit is 128"),
        ("pool create p /dev/sdb --extent-size 3MiB", "not a power of two"),
        ("pool create p /dev/sdb --extent-size 32MiB", "not a power of two"),
        ("pool create p sdb", "neither a device path"),
        ("pool create p /dev/sdb --fencing scsi", "give reservations, lease or none"),
        ("volume attach v --wait 0", "is not from 1 to 86400"),
        ("node fence a/b", "the character '/'"),
        ("pool list --metadata 127.0.0.1", "an endpoint looks like"),
        ("pki issue --role root --name n1", "'root' is no role"),
        ("pki issue --role node --name a/b", "the character '/'"),
        ("pki issue --role node --name a --days 0", "0 is not in 1..=36500"),
        ("pki revoke xyz --reason r", "'xyz' is no serial number"),
        ("pool list --metadata http://", "an endpoint looks like"),
        ("volume show name:", "the name is empty"),
        ("snapshot create v a/b", "the character '/'"),
        ("snapshot create --group v", "write VOLUME=NAME"),
        ("snapshot create --group v=", "the snapshot: the name is empty"),
        ("snapshot create --group =s", "the volume: the name is empty"),
        ("snapshot create --group v=s=t", "the snapshot: the name"),
    ] {
        let error = parse(&format!("lunar {line}")).expect_err(line);
        assert_eq!((error.kind(), error.exit_code()), (ErrorKind::ValueValidation, 2), "{line}");
        assert!(error.to_string().contains(reason), "{line}: {error}");
    }
}

#[test]
fn missing_and_contradicting_arguments_are_refused() {
    for (line, kind) in [
        ("lunar pool create p", ErrorKind::MissingRequiredArgument),
        ("lunar volume create v --size 1GiB", ErrorKind::MissingRequiredArgument),
        ("lunar volume attach", ErrorKind::MissingRequiredArgument),
        ("lunar node fence", ErrorKind::MissingRequiredArgument),
        ("lunar node fence n --certified-powered-off", ErrorKind::MissingRequiredArgument),
        (
            "lunar node fence n --certified-powered-off --confirm n",
            ErrorKind::MissingRequiredArgument,
        ),
        ("lunar node fence n --confirm n", ErrorKind::MissingRequiredArgument),
        ("lunar explain", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
        ("lunar lun label /dev/sdb --repair --force-foreign x", ErrorKind::ArgumentConflict),
        ("lunar pool list -o yaml", ErrorKind::InvalidValue),
        ("lunar volume resize v", ErrorKind::InvalidSubcommand),
        ("lunar snapshot create", ErrorKind::MissingRequiredArgument),
        ("lunar snapshot create v", ErrorKind::MissingRequiredArgument),
        ("lunar snapshot create v s --group w=t", ErrorKind::ArgumentConflict),
        ("lunar snapshot create --group", ErrorKind::InvalidValue),
        ("lunar snapshot create v s --fsfreeze perhaps", ErrorKind::InvalidValue),
        ("lunar snapshot export s --to f", ErrorKind::MissingRequiredArgument),
        ("lunar snapshot export s --format tar --to f", ErrorKind::InvalidValue),
        (
            "lunar snapshot export s --format raw --to f --base-file g",
            ErrorKind::MissingRequiredArgument,
        ),
        (
            "lunar snapshot export s --format raw --to /dev/sdz --overwrite-device --resume",
            ErrorKind::ArgumentConflict,
        ),
        ("lunar snapshot import f", ErrorKind::MissingRequiredArgument),
        ("lunar snapshot import f v", ErrorKind::MissingRequiredArgument),
        ("lunar snapshot import f v --pool p --onto w", ErrorKind::ArgumentConflict),
        ("lunar snapshot import f --onto w --unverified", ErrorKind::ArgumentConflict),
        ("lunar volume rollback v", ErrorKind::MissingRequiredArgument),
        ("lunar volume clone v w --of-volume --size 1GiB", ErrorKind::ArgumentConflict),
    ] {
        let error = parse(line).expect_err(line);
        assert_eq!((error.kind(), error.exit_code()), (kind, 2), "{line}");
    }
}

#[test]
fn a_uuid_is_an_id_and_anything_else_a_name() {
    let id = "6fa1c2d4-0b7e-4a52-9f57-3d1f0c6c2a10";
    let by_id: VolumeArg = id.parse().expect("an id");
    assert_eq!(by_id.0, Selector::Id(id.parse::<VolumeId>().expect("an id")));
    let name = |text: &str| Selector::Name(text.parse().expect("a name"));
    for (text, expected) in [("v", "v"), ("name:v", "v"), (&format!("name:{id}"), id)] {
        assert_eq!(text.parse::<VolumeArg>().map(|arg| arg.0), Ok(name(expected)), "{text}");
    }
}

#[test]
fn a_lun_is_a_path_or_an_id() {
    let id = "6fa1c2d4-0b7e-4a52-9f57-3d1f0c6c2a10";
    assert_eq!("/dev/sdb".parse(), Ok(LunReference::Path(PathBuf::from("/dev/sdb"))));
    assert_eq!(id.parse(), Ok(LunReference::Id(id.parse::<LunId>().expect("an id"))));
    assert!("./sdb".parse::<LunReference>().is_err());
}

#[test]
fn help_lists_every_exit_code() {
    let help = Cli::command().render_help().to_string();
    for line in ["  0  done", "  1  failed", "  2  wrong", "  3  not", "  4  ref", "  5  unav"] {
        assert!(help.contains(line), "{line}");
    }
}

#[test]
fn one_volume_and_a_group_are_both_members() {
    let members = |line: &str| match parse(line).expect(line).command {
        Command::Snapshot(SnapshotCommand::Create(args)) => args.members(),
        other => panic!("{line}: {other:?}"),
    };
    let member = |text: &str| text.parse::<GroupMember>().expect("a member");
    assert_eq!(members("lunar snapshot create v s"), [member("v=s")]);
    let id = "6fa1c2d4-0b7e-4a52-9f57-3d1f0c6c2a10";
    let group = members(&format!("lunar snapshot create --group v=s {id}=t"));
    assert_eq!(group, [member("v=s"), member(&format!("{id}=t"))]);
    assert_eq!(group[1].volume.0, Selector::Id(id.parse::<VolumeId>().expect("an id")));
}

#[test]
fn a_group_has_at_most_32_members() {
    let group = |members: usize| {
        let members: Vec<_> = (0..members).map(|at| format!("v{at}=s{at}")).collect();
        parse(&format!("lunar snapshot create --group {}", members.join(" ")))
    };
    assert!(group(32).is_ok());
    assert_eq!(group(33).expect_err("too many").exit_code(), 2);
}

#[test]
fn the_source_of_a_clone_may_be_a_volume() {
    let id = "6fa1c2d4-0b7e-4a52-9f57-3d1f0c6c2a10";
    let by_id: SnapshotArg = id.parse().expect("an id");
    assert_eq!(by_id.as_volume(), Selector::Id(id.parse::<VolumeId>().expect("an id")));
    let by_name: SnapshotArg = "v".parse().expect("a name");
    assert_eq!(by_name.as_volume(), Selector::Name("v".parse().expect("a name")));
}
