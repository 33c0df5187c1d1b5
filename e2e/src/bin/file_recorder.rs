//! Writes files as careful programs do, syncs them, and marks the moment in a log of dm-log-writes;
//! later it verifies a directory against what was synced.
//!
//! What a round writes follows from the seed and the round alone. Each round
//! - writes a new file, syncs it and renames it over the one of 16 rounds ago;
//! - makes a directory and removes that of 4 rounds ago;
//! - adds a record to a file and syncs it;
//! - syncs the directory, and only then sets the mark.

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::{Parser, Subcommand};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Files that there are at once.
const FILES: u64 = 16;
/// Directories that there are at once.
const DIRECTORIES: u64 = 4;
/// Most bytes of a file.
const FILE_BYTES_MAX: usize = 64 << 10;
/// Bytes of a record.
const RECORD_BYTES: usize = 4096;

#[derive(Parser)]
#[command(about = "Writes and syncs files and marks when; verifies a directory after a power cut")]
struct Arguments {
    /// The directory.
    directory: PathBuf,
    /// Where the content follows from.
    #[arg(long)]
    seed: u64,
    #[command(subcommand)]
    command: Mode,
}

#[derive(Subcommand)]
enum Mode {
    /// Write until stopped; prints "marked N" after each round.
    Write {
        /// The device mapper's device whose log gets a mark after each round.
        #[arg(long)]
        logged: String,
        /// What the marks begin with; the round follows.
        #[arg(long)]
        mark: String,
    },
    /// Verify that everything up to this round is there, and nothing beyond the next one.
    Verify {
        /// The last round that was marked; 0 if none was.
        #[arg(long)]
        rounds: u64,
    },
}

/// The random numbers of one part of a round.
fn random(seed: u64, round: u64, part: u64) -> ChaCha8Rng {
    let stream = round.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ part.rotate_right(8);
    ChaCha8Rng::seed_from_u64(seed ^ stream)
}

fn file_content(seed: u64, round: u64) -> Vec<u8> {
    let mut random = random(seed, round, 1);
    let mut content = vec![0; random.random_range(1..=FILE_BYTES_MAX)];
    random.fill_bytes(&mut content);
    content
}

fn record(seed: u64, round: u64) -> Vec<u8> {
    let mut content = vec![0; RECORD_BYTES];
    random(seed, round, 2).fill_bytes(&mut content);
    content
}

/// The parts of the directory.
struct Places<'d>(&'d Path);

impl Places<'_> {
    fn file(&self, round: u64) -> PathBuf {
        self.0.join(format!("file-{}", round % FILES))
    }

    fn directory(&self, round: u64) -> PathBuf {
        self.0.join(format!("made-in-{round}"))
    }

    fn records(&self) -> PathBuf {
        self.0.join("records")
    }
}

fn write_round(places: &Places<'_>, seed: u64, round: u64) -> std::io::Result<()> {
    let new = places.0.join("new");
    let mut file = File::create(&new)?;
    file.write_all(&file_content(seed, round))?;
    file.sync_all()?;
    fs::rename(&new, places.file(round))?;
    fs::create_dir(places.directory(round))?;
    if let Some(old) = round.checked_sub(DIRECTORIES).filter(|old| *old > 0) {
        fs::remove_dir(places.directory(old))?;
    }
    let mut records = OpenOptions::new().create(true).append(true).open(places.records())?;
    records.write_all(&record(seed, round))?;
    records.sync_data()?;
    File::open(places.0)?.sync_all()
}

fn write(arguments: &Arguments, logged: &str, mark: &str) -> Result<(), Box<dyn Error>> {
    let places = Places(&arguments.directory);
    for round in 1.. {
        let written = write_round(&places, arguments.seed, round);
        written.map_err(|error| format!("round {round} cannot be written: {error}"))?;
        let mark = format!("{mark}{round}");
        let set = Command::new("dmsetup").args(["message", logged, "0", "mark", &mark]).status()?;
        if !set.success() {
            return Err(format!("dmsetup cannot set mark {mark}: {set}").into());
        }
        writeln!(std::io::stdout(), "marked {round}")?;
        std::io::stdout().flush()?;
    }
    Ok(())
}

/// The newest round up to this one that wrote the file, if there was one.
fn newest(slot: u64, rounds: u64) -> Option<u64> {
    let back = (rounds + FILES - slot) % FILES;
    rounds.checked_sub(back).filter(|round| *round > 0)
}

fn verify_files(places: &Places<'_>, seed: u64, rounds: u64) -> Result<(), String> {
    for slot in 0..FILES {
        let path = places.file(slot);
        let found = match fs::read(&path) {
            Ok(content) => Some(content),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
        };
        let expected = newest(slot, rounds);
        let next = (rounds + 1) % FILES == slot;
        let is = |round| found.as_ref() == Some(&file_content(seed, round));
        let holds = expected.map_or(found.is_none(), is) || (next && is(rounds + 1));
        if !holds {
            let bytes = found.map(|content| content.len());
            let path = path.display();
            return Err(format!("{path} ({bytes:?} B) is not what round {expected:?} wrote"));
        }
    }
    Ok(())
}

fn verify_directories(places: &Places<'_>, rounds: u64) -> Result<(), String> {
    for round in 1..=rounds {
        let path = places.directory(round);
        let must = round + DIRECTORIES > rounds + 1;
        let may = round + DIRECTORIES > rounds;
        let is = path.is_dir();
        if (must && !is) || (is && !may) {
            let how = if is { "is still there" } else { "is missing" };
            return Err(format!("{} {how} after round {rounds}", path.display()));
        }
    }
    Ok(())
}

fn verify_records(places: &Places<'_>, seed: u64, rounds: u64) -> Result<(), String> {
    let path = places.records();
    let found = match fs::read(&path) {
        Ok(content) => content,
        Err(_) if rounds == 0 => return Ok(()),
        Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
    };
    let mut records = found.chunks(RECORD_BYTES);
    for round in 1..=rounds {
        if records.next() != Some(&record(seed, round)) {
            return Err(format!("{} does not hold the record of round {round}", path.display()));
        }
    }
    match records.count() {
        0 | 1 => Ok(()),
        more => Err(format!("{} has {more} records beyond round {rounds}", path.display())),
    }
}

fn verify(arguments: &Arguments, rounds: u64) -> Result<(), Box<dyn Error>> {
    let (places, seed) = (Places(&arguments.directory), arguments.seed);
    verify_files(&places, seed, rounds)?;
    verify_directories(&places, rounds)?;
    verify_records(&places, seed, rounds)?;
    writeln!(std::io::stdout(), "{rounds} rounds are there")?;
    Ok(())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.command {
        Mode::Write { logged, mark } => write(&arguments, logged, mark),
        Mode::Verify { rounds } => verify(&arguments, *rounds),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A closed standard error leaves the exit code to tell.
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = 5;

    fn written(rounds: u64) -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for round in 1..=rounds {
            write_round(&Places(directory.path()), SEED, round).expect("written");
        }
        directory
    }

    fn holds(directory: &Path, rounds: u64) -> bool {
        let command = Mode::Verify { rounds };
        verify(&Arguments { directory: directory.to_owned(), seed: SEED, command }, rounds).is_ok()
    }

    #[test]
    fn what_was_written_is_found_and_what_was_not_is_missed() {
        for rounds in [0, 1, 3, 4, 15, 16, 17, 40] {
            let directory = written(rounds);
            assert!(holds(directory.path(), rounds), "{rounds}");
            assert!(rounds == 0 || holds(directory.path(), rounds - 1), "one round more may be");
            assert!(!holds(directory.path(), rounds + 1), "a lost round is found");
            assert!(rounds < 2 || !holds(directory.path(), rounds - 2), "nothing beyond the next");
        }
    }

    #[test]
    fn damage_is_found() {
        let damages: [fn(&Path); 4] = [
            |at| fs::write(at.join("file-7"), b"short").expect("written"),
            |at| fs::remove_file(at.join("file-9")).expect("removed"),
            |at| fs::remove_dir(at.join("made-in-38")).expect("removed"),
            |at| {
                let mut records = fs::read(at.join("records")).expect("read");
                records[5 * RECORD_BYTES + 17] ^= 1;
                fs::write(at.join("records"), records).expect("written");
            },
        ];
        for damage in damages {
            let directory = written(40);
            damage(directory.path());
            assert!(!holds(directory.path(), 40));
        }
    }
}
