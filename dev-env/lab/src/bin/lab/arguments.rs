//! The command line of `lab`.

use clap::{Args, Parser, Subcommand};
use lunar_lab::Network;
use std::path::PathBuf;
use std::str::FromStr;

/// Boots virtual machines with a kernel that has ublk, with LUNs that all of them see.
///
/// The first use builds a root image (about a minute, 500 MB in ~/.cache/lunar-lab). Machines run
/// until `lab down`; their root file system is new at each boot, the LUNs and /var/lib/lunar stay.
#[derive(Parser)]
#[command(name = "lab", version)]
pub(crate) struct Arguments {
    /// Name of the lab; several can run side by side
    #[arg(long, global = true, env = "LUNAR_LAB_NAME", default_value = "default")]
    pub(crate) name: String,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Build the root image, or show the cached one
    Image {
        /// Build it anew with the newest packages and kernel
        #[arg(long)]
        rebuild: bool,
    },
    /// Start a lab in the background and wait until its nodes are up
    Up(UpArguments),
    /// Run a command in a node; exits with its exit code (124: timeout, 125: the lab failed)
    Exec(ExecArguments),
    /// Power a node off at once, as if the cable were pulled
    Cut {
        /// The machine: 0 or node0, target, or its name
        node: MachineName,
    },
    /// Boot a node that is off, with changed programs if there are any
    Boot {
        /// The machine: 0 or node0, target, or its name
        node: MachineName,
    },
    /// Stop the processors of a node
    Pause {
        /// The machine: 0 or node0, target, or its name
        node: MachineName,
    },
    /// Let the processors of a paused node go on
    Resume {
        /// The machine: 0 or node0, target, or its name
        node: MachineName,
    },
    /// Let the packets of a machine vanish on a network: control, storage or storage-b
    Partition {
        /// The machine: 0 or node0, target, or its name
        node: MachineName,
        /// The network
        network: Network,
    },
    /// End a partition
    Heal {
        /// The machine: 0 or node0, target, or its name
        node: MachineName,
        /// The network
        network: Network,
    },
    /// Power a node off in order
    Shutdown {
        /// The machine: 0 or node0, target, or its name
        node: MachineName,
    },
    /// Copy a file of the host into a node
    Push {
        /// The machine: 0 or node0, target, or its name
        node: MachineName,
        /// File of the host
        source: PathBuf,
        /// Absolute path in the node
        target: String,
    },
    /// Print a file of a node
    Pull {
        /// The machine: 0 or node0, target, or its name
        node: MachineName,
        /// Absolute path in the node
        source: String,
    },
    /// Print the console, the agent's log and the messages of QEMU
    Logs {
        /// The machine: 0 or node0, target, or its name
        node: MachineName,
    },
    /// Show nodes and LUNs
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// End the lab: all nodes off, its disks removed
    Down,
    /// The background process of `lab up`
    #[command(hide = true)]
    Supervise {
        #[arg(long)]
        settings: String,
    },
}

#[derive(Args)]
pub(crate) struct UpArguments {
    /// Number of nodes
    #[arg(long, default_value_t = 1)]
    pub(crate) nodes: usize,
    /// Number of LUNs that every node sees
    #[arg(long, default_value_t = 2)]
    pub(crate) luns: usize,
    /// Size of each LUN, for example 512MiB or 4GiB
    #[arg(long, default_value = "4GiB")]
    pub(crate) lun_size: Size,
    /// Give the LUNs a volatile write cache
    #[arg(long)]
    pub(crate) lun_write_cache: bool,
    /// Logical block size of the LUNs in bytes: 512 or 4096
    #[arg(long, default_value_t = 512)]
    pub(crate) lun_block_size: u32,
    /// Put networks between the machines; --machine and --target-luns imply it
    #[arg(long)]
    pub(crate) networks: bool,
    /// Add a machine that is no node, for example meta; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) machine: Vec<String>,
    /// Add a target that exports so many LUNs over iSCSI, with reservations
    #[arg(long, default_value_t = 0)]
    pub(crate) target_luns: usize,
    /// Paths from each node to the target: 1 or 2
    #[arg(long, default_value_t = 1)]
    pub(crate) paths: usize,
    /// Directory of programs for the nodes' PATH, for example target/release; may be repeated
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) programs: Vec<PathBuf>,
    /// Processors of a node
    #[arg(long, default_value_t = 2)]
    pub(crate) cpus: u32,
    /// Memory of a node in MiB
    #[arg(long, default_value_t = 1024)]
    pub(crate) memory_mib: u32,
}

#[derive(Args)]
pub(crate) struct ExecArguments {
    /// The machine: 0 or node0, target, or its name
    pub(crate) node: MachineName,
    /// Set an environment variable; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<Variable>,
    /// Working directory; /root otherwise
    #[arg(long)]
    pub(crate) cwd: Option<String>,
    /// Kill the command after so many seconds
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u64>,
    /// Do not pass standard input on
    #[arg(long, short = 'n')]
    pub(crate) no_stdin: bool,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<String>,
}

/// The name of a machine; a node may be written as its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MachineName(pub(crate) String);

impl FromStr for MachineName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || !text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()) {
            return Err(format!("{text:?} is no machine; write 0, node0, target or its name"));
        }
        match text.parse::<usize>() {
            Ok(number) => Ok(Self(format!("node{number}"))),
            Err(_) => Ok(Self(text.to_owned())),
        }
    }
}

/// An environment variable, written as `NAME=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) value: String,
}

impl FromStr for Variable {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => {
                Ok(Self { name: name.to_owned(), value: value.to_owned() })
            }
            _ => Err(format!("{text:?} is not NAME=VALUE")),
        }
    }
}

/// A size in bytes, written with a binary unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match &text[digits.len()..] {
            "" | "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            "TiB" => 40,
            unit => return Err(format!("{unit:?} is no unit; use KiB, MiB, GiB or TiB")),
        };
        let number: u64 = digits.parse().map_err(|_| format!("{text:?} is no size, like 4GiB"))?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(|| format!("{text} is too large"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!("4GiB".parse(), Ok(Size(4 << 30)));
        assert_eq!("512".parse(), Ok(Size(512)));
        assert!("4GB".parse::<Size>().is_err());
        assert!("GiB".parse::<Size>().is_err());
        assert!("99999999999TiB".parse::<Size>().is_err());
    }

    #[test]
    fn nodes_have_two_spellings_and_other_machines_one() {
        let name = |text: &str| text.parse::<MachineName>().map(|name| name.0);
        assert_eq!(name("node3").as_deref(), Ok("node3"));
        assert_eq!(name("3").as_deref(), Ok("node3"));
        assert_eq!(name("target").as_deref(), Ok("target"));
        assert!(name("-3").is_err() && name("").is_err());
    }

    #[test]
    fn command_after_dashes_keeps_its_options() {
        let line = ["lab", "exec", "0", "--timeout", "5", "--", "fio", "--name=x"];
        let Command::Exec(exec) = Arguments::try_parse_from(line).unwrap().command else {
            panic!("not exec");
        };
        assert_eq!(exec.command, ["fio", "--name=x"]);
        assert_eq!(exec.timeout, Some(5));
    }
}
