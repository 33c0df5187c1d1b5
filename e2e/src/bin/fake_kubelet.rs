//! What kubelet and the sidecars of Kubernetes ask of a CSI driver, for one volume after the other:
//! provision, publish, stage, publish on the node, and all the way back.
//!
//! Invariants:
//! - what was answered is kept in a file before the next call is made, as kubelet and the API
//!   server keep it: a walk that was interrupted goes on where it was;
//! - paths are those of kubelet: one for the staging of a volume, one for each pod;
//! - a call is repeated, as Kubernetes does, while its answer is ABORTED or UNAVAILABLE.

use std::collections::HashMap;
use std::error::Error;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand, ValueEnum};
use lunar_proto::csi;
use lunar_proto::csi::controller_client::ControllerClient;
use lunar_proto::csi::node_client::NodeClient;
use serde_json::{Value, json};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

const DRIVER: &str = "csi.lunar.storage";
const RETRY: Duration = Duration::from_millis(500);
/// One call with all its repetitions.
const PATIENCE: Duration = Duration::from_secs(180);

#[derive(Parser)]
#[command(about = "Asks a CSI driver for volumes as Kubernetes does")]
struct Arguments {
    /// The socket of the controller part.
    #[arg(long, default_value = "/run/csi/controller.sock")]
    controller: String,
    /// The socket of the node part.
    #[arg(long, default_value = "/run/csi/node.sock")]
    node: String,
    /// The directory of kubelet.
    #[arg(long, default_value = "/var/lib/kubelet")]
    root: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a volume, and let this node have it; prints what staging took.
    Up {
        /// The name of the claim.
        claim: String,
        #[arg(long, value_enum)]
        kind: Kind,
        #[arg(long, default_value_t = 1 << 30)]
        bytes: i64,
        #[arg(long, default_value = "tank")]
        pool: String,
    },
    /// Ask once more for what is there: all calls of a node, as kubelet repeats them.
    Again { claim: String },
    /// Grow the volume and what is on it.
    Grow {
        claim: String,
        #[arg(long)]
        bytes: i64,
    },
    /// Print the statistics of the volume.
    Stats { claim: String },
    /// Take the volume from this node; with `--delete` delete it too.
    Down {
        claim: String,
        #[arg(long)]
        delete: bool,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Kind {
    Ext4,
    Xfs,
    Block,
}

impl Kind {
    const fn fs_type(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Block => "",
        }
    }

    fn capability(self) -> csi::VolumeCapability {
        use csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
        let access_type = match self {
            Self::Block => AccessType::Block(BlockVolume {}),
            fs => AccessType::Mount(MountVolume {
                fs_type: fs.fs_type().to_owned(),
                ..MountVolume::default()
            }),
        };
        let mode = csi::volume_capability::access_mode::Mode::SingleNodeMultiWriter.into();
        csi::VolumeCapability {
            access_type: Some(access_type),
            access_mode: Some(AccessMode { mode }),
        }
    }
}

/// What is kept of a claim.
struct Claim {
    file: PathBuf,
    facts: Value,
}

impl Claim {
    fn load(root: &Path, name: &str) -> Result<Self, Box<dyn Error>> {
        let file = root.join(format!("{name}.claim.json"));
        let facts = match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => json!({ "name": name }),
            Err(error) => return Err(error.into()),
        };
        Ok(Self { file, facts })
    }

    fn keep(&mut self, key: &str, value: Value) -> Result<(), Box<dyn Error>> {
        self.facts[key] = value;
        let new = self.file.with_extension("new");
        let mut out = std::fs::File::create(&new)?;
        out.write_all(self.facts.to_string().as_bytes())?;
        out.sync_all()?;
        Ok(std::fs::rename(new, &self.file)?)
    }

    fn text(&self, key: &str) -> Result<String, Box<dyn Error>> {
        let found = self.facts.get(key).and_then(Value::as_str);
        found.map(str::to_owned).ok_or_else(|| format!("the claim has no {key} yet").into())
    }

    fn map(&self, key: &str) -> HashMap<String, String> {
        let entries = self.facts.get(key).and_then(Value::as_object);
        let pair =
            |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
        entries.map(|entries| entries.iter().filter_map(pair).collect()).unwrap_or_default()
    }

    fn kind(&self) -> Result<Kind, Box<dyn Error>> {
        Ok(Kind::from_str(&self.text("kind")?, true)?)
    }
}

/// The calls of one claim.
struct Kubelet {
    controller: ControllerClient<Channel>,
    node: NodeClient<Channel>,
    root: PathBuf,
    claim: Claim,
}

#[allow(clippy::disallowed_methods, reason = "talks to real programs on a real clock")]
fn now() -> Instant {
    Instant::now()
}

/// Repeats a call while its answer says that the same may be done later.
async fn patiently<T>(
    what: &str,
    mut call: impl AsyncFnMut() -> Result<tonic::Response<T>, Status>,
) -> Result<T, Box<dyn Error>> {
    let begun = now();
    loop {
        match call().await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status)
                if matches!(status.code(), Code::Aborted | Code::Unavailable)
                    && begun.elapsed() < PATIENCE => {}
            Err(status) => {
                let (code, message) = (status.code(), status.message());
                return Err(format!("{what}: {code:?}: {message}").into());
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

impl Kubelet {
    fn new(arguments: &Arguments, claim: &str) -> Result<Self, Box<dyn Error>> {
        let channel = |path: &str| -> Result<Channel, Box<dyn Error>> {
            Ok(Endpoint::from_shared(format!("unix:{path}"))?.connect_lazy())
        };
        let root = arguments.root.clone();
        std::fs::create_dir_all(&root)?;
        Ok(Self {
            controller: ControllerClient::new(channel(&arguments.controller)?),
            node: NodeClient::new(channel(&arguments.node)?),
            claim: Claim::load(&root, claim)?,
            root,
        })
    }

    /// The directory of a volume, as kubelet names it.
    fn staging(&self) -> Result<PathBuf, Box<dyn Error>> {
        let name = self.claim.text("name")?;
        let plugin = self.root.join("plugins/kubernetes.io/csi");
        Ok(match self.claim.kind()? {
            Kind::Block => plugin.join("volumeDevices/staging").join(name),
            _ => plugin.join(DRIVER).join(name).join("globalmount"),
        })
    }

    /// Where the pod has it.
    fn target(&self) -> Result<PathBuf, Box<dyn Error>> {
        let name = self.claim.text("name")?;
        Ok(match self.claim.kind()? {
            Kind::Block => {
                let publish = "plugins/kubernetes.io/csi/volumeDevices/publish";
                self.root.join(publish).join(name).join("pod-0")
            }
            _ => {
                let volumes = "pods/pod-0/volumes/kubernetes.io~csi";
                self.root.join(volumes).join(name).join("mount")
            }
        })
    }

    async fn provision(&mut self, bytes: i64, pool: &str) -> Result<(), Box<dyn Error>> {
        let kind = self.claim.kind()?;
        let request = csi::CreateVolumeRequest {
            name: self.claim.text("name")?,
            capacity_range: Some(csi::CapacityRange { required_bytes: bytes, limit_bytes: 0 }),
            volume_capabilities: vec![kind.capability()],
            parameters: HashMap::from([("pool".to_owned(), pool.to_owned())]),
            ..csi::CreateVolumeRequest::default()
        };
        let controller = &mut self.controller;
        let made =
            patiently("CreateVolume", async || controller.create_volume(request.clone()).await)
                .await?;
        let volume = made.volume.ok_or("CreateVolume has answered no volume")?;
        self.claim.keep("volume_context", json!(volume.volume_context))?;
        self.claim.keep("volume_id", json!(volume.volume_id))
    }

    async fn publish(&mut self) -> Result<(), Box<dyn Error>> {
        let node = &mut self.node;
        let info =
            patiently("NodeGetInfo", async || node.node_get_info(csi::NodeGetInfoRequest {}).await);
        let node_id = info.await?.node_id;
        let request = csi::ControllerPublishVolumeRequest {
            volume_id: self.claim.text("volume_id")?,
            node_id: node_id.clone(),
            volume_capability: Some(self.claim.kind()?.capability()),
            volume_context: self.claim.map("volume_context"),
            ..csi::ControllerPublishVolumeRequest::default()
        };
        let controller = &mut self.controller;
        let published = patiently("ControllerPublishVolume", async || {
            controller.controller_publish_volume(request.clone()).await
        });
        let context = published.await?.publish_context;
        self.claim.keep("node_id", json!(node_id))?;
        self.claim.keep("publish_context", json!(context))
    }

    /// Gives how long it took.
    async fn stage(&mut self) -> Result<Duration, Box<dyn Error>> {
        let staging = self.staging()?;
        std::fs::create_dir_all(&staging)?;
        let request = csi::NodeStageVolumeRequest {
            volume_id: self.claim.text("volume_id")?,
            publish_context: self.claim.map("publish_context"),
            staging_target_path: staging.display().to_string(),
            volume_capability: Some(self.claim.kind()?.capability()),
            volume_context: self.claim.map("volume_context"),
            ..csi::NodeStageVolumeRequest::default()
        };
        let node = &mut self.node;
        let begun = now();
        patiently("NodeStageVolume", async || node.node_stage_volume(request.clone()).await)
            .await?;
        Ok(begun.elapsed())
    }

    async fn publish_on_node(&mut self) -> Result<(), Box<dyn Error>> {
        let target = self.target()?;
        std::fs::create_dir_all(target.parent().ok_or("a target has a parent")?)?;
        let request = csi::NodePublishVolumeRequest {
            volume_id: self.claim.text("volume_id")?,
            publish_context: self.claim.map("publish_context"),
            staging_target_path: self.staging()?.display().to_string(),
            target_path: target.display().to_string(),
            volume_capability: Some(self.claim.kind()?.capability()),
            volume_context: self.claim.map("volume_context"),
            ..csi::NodePublishVolumeRequest::default()
        };
        let node = &mut self.node;
        patiently("NodePublishVolume", async || node.node_publish_volume(request.clone()).await)
            .await?;
        Ok(())
    }

    async fn up(&mut self, kind: Kind, bytes: i64, pool: &str) -> Result<(), Box<dyn Error>> {
        let kind = kind.to_possible_value().ok_or("every kind has a name")?;
        self.claim.keep("kind", json!(kind.get_name()))?;
        if self.claim.text("volume_id").is_err() {
            self.provision(bytes, pool).await?;
        }
        self.publish().await?;
        let staged = self.stage().await?;
        self.publish_on_node().await?;
        let told = json!({
            "volume_id": self.claim.text("volume_id")?,
            "target": self.target()?,
            "staging": self.staging()?,
            "stage_ms": u64::try_from(staged.as_millis())?,
        });
        show(&told.to_string())
    }

    async fn grow(&mut self, bytes: i64) -> Result<(), Box<dyn Error>> {
        let capacity_range = Some(csi::CapacityRange { required_bytes: bytes, limit_bytes: 0 });
        let volume_id = self.claim.text("volume_id")?;
        let capability = Some(self.claim.kind()?.capability());
        let request = csi::ControllerExpandVolumeRequest {
            volume_id: volume_id.clone(),
            capacity_range,
            volume_capability: capability.clone(),
            ..csi::ControllerExpandVolumeRequest::default()
        };
        let controller = &mut self.controller;
        let grown = patiently("ControllerExpandVolume", async || {
            controller.controller_expand_volume(request.clone()).await
        });
        if !grown.await?.node_expansion_required {
            return Err("ControllerExpandVolume asks for no expansion on the node".into());
        }
        let request = csi::NodeExpandVolumeRequest {
            volume_id,
            volume_path: self.target()?.display().to_string(),
            capacity_range,
            staging_target_path: self.staging()?.display().to_string(),
            volume_capability: capability,
            ..csi::NodeExpandVolumeRequest::default()
        };
        let node = &mut self.node;
        patiently("NodeExpandVolume", async || node.node_expand_volume(request.clone()).await)
            .await?;
        Ok(())
    }

    async fn stats(&mut self) -> Result<(), Box<dyn Error>> {
        let request = csi::NodeGetVolumeStatsRequest {
            volume_id: self.claim.text("volume_id")?,
            volume_path: self.target()?.display().to_string(),
            staging_target_path: self.staging()?.display().to_string(),
        };
        let node = &mut self.node;
        let stats = patiently("NodeGetVolumeStats", async || {
            node.node_get_volume_stats(request.clone()).await
        });
        let stats = stats.await?;
        let usage: Vec<_> = stats
            .usage
            .iter()
            .map(|usage| json!({ "total": usage.total, "used": usage.used, "unit": usage.unit }))
            .collect();
        let abnormal = stats.volume_condition.is_some_and(|condition| condition.abnormal);
        show(&json!({ "usage": usage, "abnormal": abnormal }).to_string())
    }

    async fn down(&mut self, delete: bool) -> Result<(), Box<dyn Error>> {
        let volume_id = self.claim.text("volume_id")?;
        let request = csi::NodeUnpublishVolumeRequest {
            volume_id: volume_id.clone(),
            target_path: self.target()?.display().to_string(),
        };
        let staging_target_path = self.staging()?.display().to_string();
        let node_id = self.claim.text("node_id")?;
        let node = &mut self.node;
        patiently("NodeUnpublishVolume", async || {
            node.node_unpublish_volume(request.clone()).await
        })
        .await?;
        let request =
            csi::NodeUnstageVolumeRequest { volume_id: volume_id.clone(), staging_target_path };
        patiently("NodeUnstageVolume", async || node.node_unstage_volume(request.clone()).await)
            .await?;
        let request = csi::ControllerUnpublishVolumeRequest {
            volume_id: volume_id.clone(),
            node_id,
            ..csi::ControllerUnpublishVolumeRequest::default()
        };
        let controller = &mut self.controller;
        patiently("ControllerUnpublishVolume", async || {
            controller.controller_unpublish_volume(request.clone()).await
        })
        .await?;
        if !delete {
            return Ok(());
        }
        let request = csi::DeleteVolumeRequest { volume_id, ..csi::DeleteVolumeRequest::default() };
        patiently("DeleteVolume", async || controller.delete_volume(request.clone()).await).await?;
        Ok(std::fs::remove_file(&self.claim.file)?)
    }
}

fn show(text: &str) -> Result<(), Box<dyn Error>> {
    Ok(writeln!(std::io::stdout().lock(), "{text}")?)
}

async fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    match &arguments.command {
        Command::Up { claim, kind, bytes, pool } => {
            Kubelet::new(arguments, claim)?.up(*kind, *bytes, pool).await
        }
        Command::Again { claim } => {
            let mut kubelet = Kubelet::new(arguments, claim)?;
            kubelet.publish().await?;
            kubelet.stage().await?;
            kubelet.publish_on_node().await
        }
        Command::Grow { claim, bytes } => Kubelet::new(arguments, claim)?.grow(*bytes).await,
        Command::Stats { claim } => Kubelet::new(arguments, claim)?.stats().await,
        Command::Down { claim, delete } => Kubelet::new(arguments, claim)?.down(*delete).await,
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to be told otherwise.
            let _ = writeln!(std::io::stderr().lock(), "{error}");
            ExitCode::FAILURE
        }
    }
}
