//! The QEMU monitor (QMP) of one machine: only what the lab needs, pause and continue.

use crate::error::{LabError, Result};
use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);

/// A monitor that is ready for commands.
pub(crate) struct Monitor {
    node: String,
    stream: BufReader<UnixStream>,
}

impl Monitor {
    /// Negotiates with a QEMU that has just connected.
    pub(crate) fn open(node: &str, stream: UnixStream) -> Result<Self> {
        let mut monitor = Self { node: node.to_owned(), stream: BufReader::new(stream) };
        monitor.greet().map_err(|error| monitor.error("greeting", &error.to_string()))?;
        monitor.run("qmp_capabilities")?;
        Ok(monitor)
    }

    /// Runs a command without arguments to its answer.
    pub(crate) fn run(&mut self, command: &str) -> Result<()> {
        let answer = self.exchange(command);
        match answer.map_err(|error| self.error(command, &error.to_string()))? {
            value if value.get("return").is_some() => Ok(()),
            value => Err(self.error(command, &value["error"]["desc"].to_string())),
        }
    }

    fn greet(&mut self) -> io::Result<()> {
        self.stream.get_ref().set_read_timeout(Some(LIMIT))?;
        self.stream.get_ref().set_write_timeout(Some(LIMIT))?;
        let greeting = self.read()?;
        if greeting.get("QMP").is_none() {
            return Err(io::Error::other(format!("not a QMP greeting: {greeting}")));
        }
        Ok(())
    }

    fn exchange(&mut self, command: &str) -> io::Result<Value> {
        let line = json!({ "execute": command }).to_string() + "\n";
        self.stream.get_mut().write_all(line.as_bytes())?;
        loop {
            let value = self.read()?;
            // Events may come at any time and are of no interest.
            if value.get("event").is_none() {
                return Ok(value);
            }
        }
    }

    fn read(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_str(&line)?)
    }

    fn error(&self, command: &str, why: &str) -> LabError {
        LabError::Monitor {
            node: self.node.clone(),
            command: command.to_owned(),
            why: why.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn answers_are_told_from_events_and_errors_are_passed_on() {
        let (host, qemu) = UnixStream::pair().unwrap();
        let script = thread::spawn(move || {
            let mut qemu = BufReader::new(qemu);
            let mut asked = Vec::new();
            let answers = [
                "{\"QMP\": {}}\n",
                "{\"return\": {}}\n",
                "{\"event\": \"STOP\"}\n{\"return\": {}}\n",
                "{\"error\": {\"desc\": \"no\"}}\n",
            ];
            for (turn, answer) in answers.into_iter().enumerate() {
                if turn > 0 {
                    let mut line = String::new();
                    qemu.read_line(&mut line).unwrap();
                    asked.push(line);
                }
                qemu.get_mut().write_all(answer.as_bytes()).unwrap();
            }
            asked
        });
        let mut monitor = Monitor::open("node0", host).unwrap();
        monitor.run("stop").unwrap();
        let error = monitor.run("cont").unwrap_err().to_string();
        assert!(error.contains("cont") && error.contains("no"), "{error}");
        assert_eq!(script.join().unwrap().len(), 3);
    }
}
