//! Several Kafka nodes and one PostgreSQL on a temporary folder, for tests of failures. Each server can be stopped and
//! started separately.
//!
//! No server is restarted automatically: a killed server stays down until it is started.

use std::sync::Arc;

use tokio::task::{JoinSet, spawn_blocking};

use crate::datadir::DataDir;
use crate::disk::SmallDisk;
use crate::kafka::{Kafka, Settings, Voter};
use crate::options::{Data, Options};
use crate::server::{Program, Server};
use crate::stack::{blocking, start_postgres};
use crate::tools::{self, User};
use crate::{Error, jars, ports};

/// Options of a cluster.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Kafka nodes, from 1 to 9. With three or more, internal topics have three replicas and `min.insync.replicas` 2.
    pub nodes: u8,
    /// Size in MiB of a disk for the last node, which `fill_disk` fills. Only if this process may mount one.
    pub small_disk_mib: Option<u32>,
}

/// Running Kafka nodes and a PostgreSQL, all on 127.0.0.1. Dropping it kills them and removes their data; they die with
/// this process.
pub struct Cluster {
    nodes: Vec<Arc<Server>>,
    postgres: Arc<Server>,
    bootstrap: String,
    disk: Result<SmallDisk, String>,
    folder: DataDir,
}

impl Cluster {
    /// Starts all servers, and returns when all of them answer.
    ///
    /// # Errors
    /// A missing tool, a full disk, or a server that did not start.
    pub async fn start(options: ClusterOptions) -> Result<Self, Error> {
        let user = tools::server_user()?;
        let owner = user.clone();
        let folder = blocking(move || DataDir::open(&Data::Ephemeral, owner.as_ref())).await?;
        let disk = match options.small_disk_mib {
            Some(mib) => {
                let path = folder.server(&node_folder(i32::from(options.nodes))).join("data");
                SmallDisk::mount(&path, mib, user.as_ref()).map_err(|error| error.to_string())
            }
            None => Err("the cluster was started without a small disk".to_owned()),
        };
        let servers = Options { kafka: false, ..Options::test() };
        let (nodes, postgres) = tokio::try_join!(
            start_nodes(options.nodes, &folder, user.as_ref()),
            start_postgres(&servers, &folder, user.as_ref())
        )?;
        let postgres = postgres.ok_or(Error::NotOurs("PostgreSQL"))?;
        let addresses: Vec<&str> = nodes.iter().filter_map(|node| kafka(node)).map(Kafka::address).collect();
        Ok(Self { bootstrap: addresses.join(","), nodes, postgres, disk, folder })
    }

    /// Addresses of all nodes, as librdkafka's `bootstrap.servers` takes them.
    #[must_use]
    pub fn kafka_brokers(&self) -> &str {
        &self.bootstrap
    }

    /// The URL of the database `triggers`, with its password. The role is a superuser.
    #[must_use]
    pub fn database_url(&self) -> String {
        match &self.postgres.program {
            Program::Postgres(postgres) => postgres.main_url(),
            Program::Kafka(_) => String::new(),
        }
    }

    /// The folder with the data and the servers' logs.
    #[must_use]
    pub fn data_dir(&self) -> &std::path::Path {
        self.folder.root()
    }

    /// The node ids, from 1.
    #[must_use]
    pub fn ids(&self) -> Vec<i32> {
        (1..).take(self.nodes.len()).collect()
    }

    /// One node.
    ///
    /// # Errors
    /// When there is no such id.
    pub fn node(&self, id: i32) -> Result<&Server, Error> {
        let index = usize::try_from(id - 1).ok();
        index.and_then(|index| self.nodes.get(index)).map(AsRef::as_ref).ok_or(Error::NotOurs("Kafka node of this id"))
    }

    /// Starts these nodes concurrently, and returns when all of them answer. A single node does not answer while the
    /// majority of the cluster is down.
    ///
    /// # Errors
    /// When a node does not start.
    pub async fn start_nodes(&self, ids: &[i32]) -> Result<(), Error> {
        let wanted = ids.iter().filter_map(|id| usize::try_from(id - 1).ok()).filter_map(|index| self.nodes.get(index));
        start_all(wanted.cloned()).await
    }

    /// The active controller, according to the `quorum-state` files of the nodes; `None` while there is none. A node
    /// that was just killed is returned until another is elected.
    #[must_use]
    pub fn controller_leader(&self) -> Option<i32> {
        let leaders = self.nodes.iter().filter_map(|node| kafka(node)?.last_known_leader());
        leaders.max().map(|(_, leader)| leader)
    }

    #[must_use]
    pub fn postgres(&self) -> &Server {
        &self.postgres
    }

    /// The node with the small disk.
    ///
    /// # Errors
    /// Why there is none, such as that mounting is not allowed.
    pub fn node_with_small_disk(&self) -> Result<i32, String> {
        self.disk.as_ref().map(|_| self.ids().last().copied().unwrap_or(1)).map_err(Clone::clone)
    }

    /// Fills the small disk completely.
    ///
    /// # Errors
    /// When there is none, or it cannot be written for another reason than being full.
    pub fn fill_disk(&self) -> Result<(), Error> {
        self.disk.as_ref().map_err(|reason| Error::UnusableTool(reason.clone()))?.fill()
    }

    /// Removes the file that fills the small disk.
    ///
    /// # Errors
    /// When there is none, or the file cannot be removed.
    pub fn clear_disk(&self) -> Result<(), Error> {
        self.disk.as_ref().map_err(|reason| Error::UnusableTool(reason.clone()))?.clear()
    }

    /// Kills all servers and removes their data.
    pub async fn stop(self) {
        // Dropping blocks: it waits for processes and removes files.
        drop(spawn_blocking(move || drop(self)).await);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for server in self.nodes.iter().chain([&self.postgres]) {
            server.abort_blocking();
        }
        self.disk = Err("the cluster is stopped".to_owned());
        if let Err(error) = self.folder.close() {
            tracing::warn!("{error}");
        }
    }
}

fn kafka(server: &Server) -> Option<&Kafka> {
    match &server.program {
        Program::Kafka(kafka) => Some(kafka),
        Program::Postgres(_) => None,
    }
}

fn node_folder(id: i32) -> String {
    format!("kafka-{id}")
}

async fn start_nodes(count: u8, folder: &DataDir, user: Option<&User>) -> Result<Vec<Arc<Server>>, Error> {
    let java = blocking(tools::java).await?;
    let jars = jars::ensure().await?;
    let ids = 1..=i32::from(count.clamp(1, 9));
    let voters = ids.map(|id| Ok(Voter { id, port: ports::free()? })).collect::<Result<Vec<_>, Error>>()?;
    let mut nodes = Vec::new();
    for voter in &voters {
        let settings = Settings {
            folder: folder.server(&node_folder(voter.id)),
            user,
            cluster_id: &folder.record().cluster_id,
            id: voter.id,
            port: ports::free()?,
            voters: voters.clone(),
            durability: crate::Durability::Test,
            heap: crate::Heap::Test,
            security: None,
        };
        nodes.push(Arc::new(Server::new(Program::Kafka(Kafka::prepare(settings, java.clone(), &jars).await?))));
    }
    start_all(nodes.iter().cloned()).await?;
    Ok(nodes)
}

async fn start_all(servers: impl Iterator<Item = Arc<Server>>) -> Result<(), Error> {
    let mut starting = JoinSet::new();
    for server in servers {
        starting.spawn(async move { server.start().await });
    }
    while let Some(started) = starting.join_next().await {
        started.map_err(|error| Error::io("start a node")(std::io::Error::other(error)))??;
    }
    Ok(())
}
