//! Compiles every `.proto` file of the package with protox, so that no `protoc` is needed.

use std::error::Error;
use std::path::{Path, PathBuf};

use prost_types::FileDescriptorSet;

/// The field of requests that is never to be shown.
const SECRETS: &str = "secrets";

#[allow(clippy::print_stdout, reason = "this is how a build script speaks to cargo")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = std::env::var_os("OUT_DIR").ok_or("cargo gives no OUT_DIR")?;
    lunar(Path::new(&out))?;
    csi(Path::new(&out))
}

fn compile(folder: &str) -> Result<FileDescriptorSet, Box<dyn Error>> {
    let root = Path::new("proto");
    let mut files: Vec<PathBuf> = std::fs::read_dir(root.join(folder))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "proto"));
    files.sort();
    Ok(protox::compile(&files, [root])?)
}

fn lunar(out: &Path) -> Result<(), Box<dyn Error>> {
    let descriptors = compile("lunar/v1")?;
    let mut methods = String::from("/// The path of every call of every service.\n");
    methods.push_str("pub const METHODS: &[&str] = &[\n");
    for file in &descriptors.file {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                methods.push_str(&format!("    \"{path}\",\n"));
            }
        }
    }
    methods.push_str("];\n");
    std::fs::write(out.join("methods.rs"), methods)?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}

/// Messages with secrets get a `Debug` that shows nothing, so that no log can.
fn csi(out: &Path) -> Result<(), Box<dyn Error>> {
    let descriptors = compile("csi/v1")?;
    let mut secret = Vec::new();
    let mut hidden = String::new();
    for message in descriptors.file.iter().flat_map(|file| &file.message_type) {
        if message.field.iter().any(|field| field.name() == SECRETS) {
            let name = message.name();
            secret.push(format!(".csi.v1.{name}"));
            hidden.push_str(&format!(
                "impl std::fmt::Debug for {name} {{\n    fn fmt(&self, f: &mut \
                 std::fmt::Formatter<'_>) -> std::fmt::Result {{\n        \
                 f.debug_struct(\"{name}\").finish_non_exhaustive()\n    }}\n}}\n"
            ));
        }
    }
    std::fs::write(out.join("csi_debug.rs"), hidden)?;
    tonic_prost_build::configure().skip_debug(secret).compile_fds(descriptors)?;
    Ok(())
}
