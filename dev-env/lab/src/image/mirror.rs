//! Where packages come from: the mirror and the apt settings of the host, and the newest kernel.

use super::recipe::{KERNEL_FLAVOUR, KERNEL_SUITE};
use crate::error::{AtPath, LabError, Result};
use crate::host::{self, APT_CACHE, APT_CONFIG, APT_GET};
use std::fs;
use std::path::{Path, PathBuf};

/// Overrides the mirror found in the host's apt sources.
pub const MIRROR_VARIABLE: &str = "LUNAR_LAB_MIRROR";

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const SOURCES: &str = "/etc/apt/sources.list";
const SOURCES_PARTS: &str = "/etc/apt/sources.list.d";

/// Settings of the host's apt that an image build needs too: proxies and checks.
const FORWARDED: [&str; 5] = [
    "Acquire::http",
    "Acquire::https",
    "Acquire::Check-Date",
    "Acquire::Check-Valid-Until",
    "Acquire::Retries",
];

/// A Debian mirror and how to reach it.
#[derive(Debug, Clone)]
pub(crate) struct Mirror {
    /// Its base URI.
    pub(crate) uri: String,
    /// Lines for apt.conf.
    pub(crate) apt_options: Vec<String>,
}

impl Mirror {
    /// The mirror of the host, or the one in [`MIRROR_VARIABLE`].
    pub(crate) fn of_host() -> Result<Self> {
        if !Path::new(KEYRING).exists() {
            return Err(LabError::Image(format!(
                "{KEYRING} is missing; install the Debian package debian-archive-keyring"
            )));
        }
        let uri = match std::env::var(MIRROR_VARIABLE) {
            Ok(uri) => uri,
            Err(_) => uri_from_sources()?,
        };
        let dump = host::run("reading the apt settings", APT_CONFIG.command()?.arg("dump"))?;
        Ok(Self { uri, apt_options: forwarded_options(&dump) })
    }

    /// A line for sources.list.
    pub(crate) fn source_line(&self, suite: &str) -> String {
        format!("deb [signed-by={KEYRING}] {} {suite} main", self.uri)
    }

    /// The newest kernel of our flavour, as the version in its package names.
    pub(crate) fn newest_kernel(&self) -> Result<String> {
        let directory = tempfile::Builder::new().prefix("lunar-lab-apt-").tempdir();
        let directory = directory.at("make a directory in", std::env::temp_dir())?;
        let at = directory.path();
        for part in ["lists/partial", "cache/archives/partial"] {
            let path = at.join(part);
            fs::create_dir_all(&path).at("make", path)?;
        }
        let sources = at.join("sources.list");
        let line = self.source_line(KERNEL_SUITE) + "\n";
        fs::write(&sources, line).at("write", &sources)?;
        let configuration = at.join("apt.conf");
        let options = self.private_apt(at).join("\n");
        fs::write(&configuration, options).at("write", &configuration)?;
        let mut update = APT_GET.command()?;
        update.env("APT_CONFIG", &configuration).args(["-q", "update"]);
        host::run("asking the mirror for kernels", &mut update)?;
        let mut names = APT_CACHE.command()?;
        names.env("APT_CONFIG", &configuration).args(["pkgnames", "linux-"]);
        let names = host::run("listing the kernels", &mut names)?;
        newest_kernel_in(&names).ok_or_else(|| {
            LabError::Image(format!(
                "{} has no package linux-modules-*-{KERNEL_FLAVOUR} in {KERNEL_SUITE}",
                self.uri
            ))
        })
    }

    fn private_apt(&self, at: &Path) -> Vec<String> {
        let at = at.display();
        let mut options = vec![
            format!("Dir::Etc::sourcelist \"{at}/sources.list\";"),
            "Dir::Etc::sourceparts \"/dev/null\";".to_owned(),
            format!("Dir::State::lists \"{at}/lists\";"),
            "Dir::State::status \"/dev/null\";".to_owned(),
            format!("Dir::Cache \"{at}/cache\";"),
            "APT::Sandbox::User \"\";".to_owned(),
        ];
        options.extend(self.apt_options.iter().cloned());
        options
    }
}

/// Lines of `apt-config dump` that are forwarded.
fn forwarded_options(dump: &str) -> Vec<String> {
    let wanted = |line: &&str| {
        let name = line.split(' ').next().unwrap_or_default();
        !line.ends_with("\"\";")
            && FORWARDED.iter().any(|prefix| {
                name.strip_prefix(prefix)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
            })
    };
    dump.lines().filter(wanted).map(str::to_owned).collect()
}

fn uri_from_sources() -> Result<String> {
    let codename = fs::read_to_string("/etc/os-release").at("read", "/etc/os-release")?;
    let codename = codename
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .unwrap_or_default()
        .trim_matches('"')
        .to_owned();
    for path in source_files() {
        let text = fs::read_to_string(&path).at("read", &path)?;
        let deb822 = path.extension().is_some_and(|extension| extension == "sources");
        let found = if deb822 { deb822_uri(&text, &codename) } else { list_uri(&text, &codename) };
        if let Some(uri) = found {
            return Ok(uri);
        }
    }
    Err(LabError::Image(format!(
        "no Debian mirror for {codename} in {SOURCES} or {SOURCES_PARTS}; set {MIRROR_VARIABLE} to \
         the URI of one"
    )))
}

fn source_files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(SOURCES_PARTS)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|found| found == "sources" || found == "list"))
        .collect();
    files.sort();
    files.insert(0, PathBuf::from(SOURCES));
    files.retain(|path| path.is_file());
    files
}

/// The URI of the first entry for this release in the one-line format.
fn list_uri(text: &str, codename: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let line = line.split('#').next().unwrap_or_default().trim();
        let rest = line.strip_prefix("deb ")?.trim();
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']')?.1,
            None => rest,
        };
        let mut words = rest.split_whitespace();
        let (uri, suite) = (words.next()?, words.next()?);
        (suite == codename && words.any(|component| component == "main")).then(|| uri.to_owned())
    })
}

/// The URI of the first entry for this release in the paragraph format.
fn deb822_uri(text: &str, codename: &str) -> Option<String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let text = lines.collect::<Vec<_>>().join("\n");
    text.split("\n\n").find_map(|paragraph| {
        let field = |name: &str| {
            paragraph.lines().find_map(|line| {
                let (found, value) = line.split_once(':')?;
                found.eq_ignore_ascii_case(name).then(|| value.trim())
            })
        };
        let has =
            |name, word| field(name)?.split_whitespace().any(|found| found == word).then_some(());
        has("Types", "deb")?;
        has("Suites", codename)?;
        has("Components", "main")?;
        if field("Enabled").is_some_and(|value| value.eq_ignore_ascii_case("no")) {
            return None;
        }
        field("URIs")?.split_whitespace().next().map(str::to_owned)
    })
}

/// The highest version that has both the modules and the image of our flavour.
fn newest_kernel_in(names: &str) -> Option<String> {
    let suffix = format!("-{KERNEL_FLAVOUR}");
    let versions = |prefix: &'static str| {
        let suffix = suffix.clone();
        names.lines().filter_map(move |name| {
            let version = name.trim().strip_prefix(prefix)?.strip_suffix(&suffix)?;
            version.starts_with(|first: char| first.is_ascii_digit()).then(|| version.to_owned())
        })
    };
    let images: Vec<String> = versions("linux-binary-").collect();
    versions("linux-modules-").filter(|version| images.contains(version)).max_by_key(|version| {
        let numbers = version.split(|c: char| !c.is_ascii_digit());
        numbers.filter_map(|number| number.parse::<u64>().ok()).collect::<Vec<_>>()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_kernel_is_by_number_and_complete() {
        let names = "linux-modules-7.3.4+deb13-cloud-amd64\n\
                     linux-modules-7.2.11+deb13-cloud-amd64\n\
                     linux-modules-7.2.9+deb13-cloud-amd64\nlinux-binary-7.2.9+deb13-cloud-amd64\n\
                     linux-modules-cloud-amd64\nlinux-binary-7.2.11+deb13-cloud-amd64\n\
                     linux-binary-unsigned-7.3.4+deb13-cloud-amd64\n";
        assert_eq!(newest_kernel_in(names).as_deref(), Some("7.2.11+deb13"));
        assert_eq!(newest_kernel_in("linux-modules-cloud-amd64"), None);
    }

    #[test]
    fn mirror_is_found_in_both_formats() {
        let list = "# deb http://no.example/debian bookworm main\n\
                    deb [arch=amd64 signed-by=/k] http://other.example/x stable main\n\
                    deb [arch=amd64] http://mirror.example/debian bookworm main contrib\n";
        assert_eq!(list_uri(list, "bookworm").as_deref(), Some("http://mirror.example/debian"));
        assert_eq!(list_uri(list, "trixie"), None);
        let paragraphs = "Types: deb\nURIs: https://tool.example\nSuites: nodistro\n\
                          Components: main\n\nTypes: deb\n# a remark\n\
                          URIs: http://mirror.example/d\n\
                          Suites: bookworm bookworm-updates\nComponents: main\n";
        assert_eq!(deb822_uri(paragraphs, "bookworm").as_deref(), Some("http://mirror.example/d"));
        assert_eq!(deb822_uri(paragraphs, "bookworm-security"), None);
    }

    #[test]
    fn only_proxies_and_checks_are_forwarded() {
        let dump = "APT::Architecture \"amd64\";\nAcquire \"\";\n\
                    Acquire::http::Proxy \"http://p:1\";\n\
                    Acquire::http \"\";\nAcquire::Check-Date \"false\";\nAcquire::httpx \"1\";\n";
        assert_eq!(
            forwarded_options(dump),
            ["Acquire::http::Proxy \"http://p:1\";", "Acquire::Check-Date \"false\";"]
        );
    }
}
