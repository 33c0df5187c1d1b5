//! What is made from the definition of the arguments: completions and manual pages.

use std::path::Path;
use std::{fs, io};

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Cli;
use crate::error::{CliError, Exit};
use crate::output;

const PROGRAM: &str = "lunar";

pub(super) fn completions(shell: Shell) -> Result<Exit, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), PROGRAM, &mut script);
    output::write_out(&script)?;
    Ok(Exit::Ok)
}

pub(super) fn manual_pages(out: &Path) -> Result<Exit, CliError> {
    let written = fs::create_dir_all(out).and_then(|()| write_pages(out));
    written.map(|()| Exit::Ok).map_err(|error| {
        let message = format!("write manual pages to {}: {error}", out.display());
        CliError::new(Exit::Failed, "OUTPUT", message)
    })
}

fn write_pages(out: &Path) -> io::Result<()> {
    clap_mangen::generate_to(Cli::command(), out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_manual_page() {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().join("man1");
        assert_eq!(manual_pages(&out), Ok(Exit::Ok));
        for page in [
            "lunar.1",
            "lunar-doctor.1",
            "lunar-volume-attach.1",
            "lunar-pool-add-lun.1",
            "lunar-snapshot-create.1",
            "lunar-volume-rollback.1",
            "lunar-operation-list.1",
        ] {
            let text = fs::read_to_string(out.join(page)).expect(page);
            assert!(text.contains(".TH"), "{page}");
        }
    }

    #[test]
    fn pages_that_cannot_be_written_are_an_error_with_the_folder() {
        let error = manual_pages(Path::new("/proc/none")).expect_err("not writable");
        assert!(error.message.starts_with("write manual pages to /proc/none: "), "{error}");
    }
}
