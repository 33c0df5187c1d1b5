//! The arguments that pods give to Lunar's programs, as those programs read them.

use std::path::Path;

use clap::Parser;
use lunar_csi::args::Cli as CsiDriver;
use lunar_metadata::config::ServeFlags;
use lunar_packaging::objects::Objects;
use lunar_packaging::pods::{Container, containers};

/// As the program metadata-service reads its command line.
#[derive(Parser, Debug)]
struct MetadataService {
    #[arg(long, global = true)]
    log: Option<String>,
    #[command(subcommand)]
    command: MetadataCommand,
}

#[derive(clap::Subcommand, Debug)]
enum MetadataCommand {
    Serve(ServeFlags),
}

/// What is wrong with the arguments of a container of ours; nothing of a sidecar.
fn problem(container: Container<'_>, fs_core_flags: &[String]) -> Option<String> {
    let arguments = container.arguments();
    let arguments = arguments.iter().map(|text| text.replace("$(LUNAR_NODE_NAME)", "n1"));
    let arguments: Vec<String> =
        [container.name().to_owned()].into_iter().chain(arguments).collect();
    match container.name() {
        "csi-driver" => CsiDriver::try_parse_from(&arguments).err().map(|error| error.to_string()),
        "metadata-service" => {
            MetadataService::try_parse_from(&arguments).err().map(|error| error.to_string())
        }
        "fs-core" => unknown_flag(&arguments[1..], fs_core_flags),
        _ => None,
    }
}

fn unknown_flag(arguments: &[String], flags: &[String]) -> Option<String> {
    let Some((first, rest)) = arguments.split_first() else { return Some("no command".to_owned()) };
    if first != "serve" {
        return Some(format!("'{first}' is no command of fs-core"));
    }
    let known = |argument: &&String| {
        let flag = argument.strip_prefix("--").and_then(|text| text.split_once('='));
        flag.is_some_and(|(flag, value)| {
            flags.iter().any(|known| known == flag) && !value.is_empty()
        })
    };
    rest.iter().find(|argument| !known(argument)).map(|argument| format!("unknown: {argument}"))
}

/// The flags of fs-core: the fields of its settings, as clap names them.
pub(crate) fn fs_core_flags(repository: &Path) -> Vec<String> {
    let source = super::read(&repository.join("ublk-target/src/config.rs"));
    let settings = source.split_once("pub struct Settings {").expect("fs-core has settings").1;
    let settings = settings.split_once("\n}").expect("they end").0;
    let fields = settings.lines().filter_map(|line| line.trim().strip_prefix("pub "));
    let names = fields.filter_map(|field| field.split_once(':')).map(|(name, _)| match name {
        "luns" => "lun".to_owned(),
        name => name.replace('_', "-"),
    });
    // Those of main.rs, which are no settings of the file.
    names.chain(["log".to_owned(), "config".to_owned()]).collect()
}

/// Asserts that every program of ours understands what its pod tells it.
pub(crate) fn assert_understood(objects: &Objects) {
    let flags = fs_core_flags(&super::repository());
    let mut ours = 0;
    for container in containers(objects) {
        ours += usize::from(container.image().contains("lunar/"));
        let found = problem(container, &flags);
        assert_eq!(found, None, "{container}");
    }
    assert!(ours >= 2, "a rendering has the controller and the node plugin");
}
