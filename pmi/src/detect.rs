//! Who started this process, and how to talk to it.
//!
//! A launcher that is there and cannot be used is an error. N processes that each believe to be alone are never the answer.

use std::fmt;

use crate::environment::Environment;
use crate::error::Reason;

/// Who started this process, as far as its variables tell. For messages, and for [`Pmi::abort`](crate::Pmi::abort),
/// which one of them cannot be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Launcher {
    /// `ironband run`.
    Ironband,
    /// Open MPI's `mpirun` of the 4 series.
    OpenMpi,
    /// PRRTE's `prterun`, which is also `mpirun` of Open MPI 5.
    Prrte,
    /// MPICH's `mpiexec` (Hydra, gforker).
    Mpich,
    /// Intel MPI's `mpiexec`.
    Intel,
    /// `srun`.
    Slurm,
    /// One that gives its variables no name.
    Unknown,
    /// None.
    Nobody,
}

impl fmt::Display for Launcher {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Ironband => "ironband run",
            Self::OpenMpi => "Open MPI's mpirun",
            Self::Prrte => "prterun (Open MPI 5)",
            Self::Mpich => "MPICH's mpiexec",
            Self::Intel => "Intel MPI's mpiexec",
            Self::Slurm => "Slurm's srun",
            Self::Unknown => "an unknown launcher",
            Self::Nobody => "no launcher",
        })
    }
}

/// What is spoken with the launcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// PMI-1.1, lines over a socket.
    Pmi1,
    /// PMI-2, length-prefixed records over a socket; on request only (`IRONBAND_PMI=pmi2`).
    Pmi2,
    /// PMIx, through `libpmix.so.2`.
    Pmix,
    /// Our own: rank 0 serves PMI-1 to the others over TCP.
    Tcp,
    /// Nothing: one process.
    Single,
}

impl fmt::Display for Protocol {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Pmi1 => "PMI-1",
            Self::Pmi2 => "PMI-2",
            Self::Pmix => "PMIx",
            Self::Tcp => "TCP to rank 0",
            Self::Single => "a single process",
        })
    }
}

/// Where the launcher is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Contact {
    /// An open socket that this process has inherited, and who this process is.
    Descriptor { fd: i32, rank: u32, size: u32 },
    /// A host and port to connect to, and the number to say there. It answers with rank and size.
    Port { address: String, id: u32 },
    /// The PMIx library knows.
    Library,
    /// Rank 0's host and port, if it is known, and the key of the job.
    Root(Root),
    /// One process.
    Alone,
}

/// A job whose processes know their numbers and have nobody to exchange values through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Root {
    pub(crate) rank: u32,
    pub(crate) size: u32,
    /// `HOST:PORT` of rank 0.
    pub(crate) address: String,
    /// The same, if that host's name is known to nobody, and rank 0 finds that this is where it is.
    pub(crate) or_address: Option<String>,
    /// What tells this job from another at the same port.
    pub(crate) job: String,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Detected {
    pub(crate) launcher: Launcher,
    pub(crate) protocol: Protocol,
    pub(crate) contact: Contact,
}

/// The words that `IRONBAND_PMI` takes.
const CHOICES: &str = "auto, pmi1, pmi2, pmix, tcp, single";

pub(crate) fn detect(environment: &Environment) -> Result<Detected, Reason> {
    let launcher = launcher(environment);
    let found = |protocol, contact| Ok(Detected { launcher, protocol, contact });
    let pmix = environment.has("PMIX_NAMESPACE") && environment.has_prefix("PMIX_SERVER_URI");
    match environment.get("IRONBAND_PMI").unwrap_or("auto") {
        "auto" => {}
        "pmi1" => return found(Protocol::Pmi1, wire(environment)?.ok_or_else(no_wire)?),
        "pmi2" => return found(Protocol::Pmi2, wire(environment)?.ok_or_else(no_wire)?),
        "pmix" if pmix => return found(Protocol::Pmix, Contact::Library),
        "pmix" => {
            return Err(Reason::Environment(
                "IRONBAND_PMI=pmix, and no PMIx server has set PMIX_NAMESPACE and PMIX_SERVER_URI*"
                    .to_owned(),
            ));
        }
        "tcp" => return found(Protocol::Tcp, meeting(environment)?),
        "single" => {
            return Ok(Detected {
                launcher: Launcher::Nobody,
                protocol: Protocol::Single,
                contact: Contact::Alone,
            });
        }
        other => {
            return Err(Reason::Environment(format!(
                "IRONBAND_PMI={other:?} is refused: it must be {CHOICES}"
            )));
        }
    }
    if pmix {
        return found(Protocol::Pmix, Contact::Library);
    }
    if let Some(contact) = wire(environment)? {
        return found(Protocol::Pmi1, contact);
    }
    if environment.has("SLURM_STEP_ID") && environment.has("SLURM_PROCID") {
        return found(Protocol::Tcp, meeting(environment)?);
    }
    // What a launcher left behind that this process cannot use: better an error than N processes that are all rank 0.
    for (set, lacks) in [
        ("OMPI_COMM_WORLD_SIZE", "PMIX_NAMESPACE and PMIX_SERVER_URI*"),
        ("PMIX_RANK", "PMIX_NAMESPACE and PMIX_SERVER_URI*"),
        ("PMI_RANK", "PMI_FD and PMI_PORT"),
    ] {
        if environment.has(set) {
            return Err(Reason::Environment(format!("a launcher has set {set}, and {lacks} are missing")));
        }
    }
    found(Protocol::Single, Contact::Alone)
}

fn no_wire() -> Reason {
    Reason::Environment(
        "IRONBAND_PMI asks for PMI-1 or PMI-2, and neither PMI_FD nor PMI_PORT is set".to_owned(),
    )
}

/// How PMI-1 and PMI-2 are reached.
fn wire(environment: &Environment) -> Result<Option<Contact>, Reason> {
    if let Some(fd) = environment.number("PMI_FD")? {
        let (rank, size) =
            (environment.required("PMI_RANK", "PMI_FD")?, environment.required("PMI_SIZE", "PMI_FD")?);
        check_rank(rank, size)?;
        return Ok(Some(Contact::Descriptor { fd, rank, size }));
    }
    if let Some(address) = environment.get("PMI_PORT") {
        let id = environment.required("PMI_ID", "PMI_PORT")?;
        return Ok(Some(Contact::Port { address: address.to_owned(), id }));
    }
    Ok(None)
}

/// Where the processes of a job without a server meet. One alone opens no port.
fn meeting(environment: &Environment) -> Result<Contact, Reason> {
    let root = root(environment)?;
    Ok(if root.size == 1 { Contact::Alone } else { Contact::Root(root) })
}

/// Who this process is among those that meet at rank 0: said by `IRONBAND_PMI_*`, or by Slurm.
fn root(environment: &Environment) -> Result<Root, Reason> {
    const OWN: &str = "IRONBAND_PMI_ROOT";
    let own = environment.get(OWN);
    let is_slurm = environment.has("SLURM_STEP_ID") && environment.has("SLURM_PROCID");
    let root = match own {
        Some(address) if environment.has("IRONBAND_PMI_RANK") || !is_slurm => Root {
            rank: environment.required("IRONBAND_PMI_RANK", OWN)?,
            size: environment.required("IRONBAND_PMI_SIZE", OWN)?,
            address: address.to_owned(),
            or_address: None,
            job: environment.get("IRONBAND_PMI_JOB").unwrap_or("job").to_owned(),
        },
        _ if is_slurm => slurm_root(environment, own)?,
        _ => {
            return Err(Reason::Environment(
                "IRONBAND_PMI=tcp wants IRONBAND_PMI_ROOT (HOST:PORT of rank 0), IRONBAND_PMI_RANK and IRONBAND_PMI_SIZE"
                    .to_owned(),
            ));
        }
    };
    check_rank(root.rank, root.size)?;
    Ok(root)
}

/// Ports for the processes of Slurm steps, below those that the kernel hands out by itself.
const SLURM_PORTS: std::ops::Range<u32> = 20_000..32_000;

fn slurm_root(environment: &Environment, own: Option<&str>) -> Result<Root, Reason> {
    const SET: &str = "SLURM_STEP_ID";
    let (job, step): (u32, u32) =
        (environment.required("SLURM_JOB_ID", SET)?, environment.required(SET, "SLURM_PROCID")?);
    let (address, or_address) = match own {
        Some(address) => (address.to_owned(), None),
        None => {
            let nodes = environment
                .get("SLURM_STEP_NODELIST")
                .or_else(|| environment.get("SLURM_NODELIST"))
                .ok_or_else(|| {
                    Reason::Environment(format!("{SET} is set, and SLURM_STEP_NODELIST is not"))
                })?;
            let host = crate::slurm::first_host(nodes)?;
            // Steps of one node must not meet at one port: both numbers count up.
            let port = SLURM_PORTS.start
                + (job.wrapping_mul(61).wrapping_add(step)) % (SLURM_PORTS.end - SLURM_PORTS.start);
            // Slurm's names of nodes need not be known outside of it. Where `srun` runs in a job script, as it mostly does, that is
            // the first node, and its address is told.
            let launched_from = environment.get("SLURM_LAUNCH_NODE_IPADDR");
            let or_address = launched_from.map(|host| match host.contains(':') {
                true => format!("[{host}]:{port}"),
                false => format!("{host}:{port}"),
            });
            (format!("{host}:{port}"), or_address)
        }
    };
    Ok(Root {
        rank: environment.required("SLURM_PROCID", SET)?,
        size: match environment.number("SLURM_STEP_NUM_TASKS")? {
            Some(size) => size,
            None => environment.required("SLURM_NTASKS", SET)?,
        },
        address,
        or_address,
        job: format!("slurm.{job}.{step}"),
    })
}

pub(crate) fn check_rank(rank: u32, size: u32) -> Result<(), Reason> {
    if rank < size {
        Ok(())
    } else {
        Err(Reason::Environment(format!("the launcher calls this process rank {rank} of {size}")))
    }
}

/// Launchers start each other (Hydra its proxies by srun, a job script mpirun), so what the innermost one leaves comes first.
pub(crate) fn launcher(environment: &Environment) -> Launcher {
    let by_variable = [
        ("PRTE_LAUNCHED", Launcher::Prrte),
        ("OMPI_COMM_WORLD_SIZE", Launcher::OpenMpi),
        // Intel's is derived from MPICH's, and sets what that sets. (A user may set I_MPI_HYDRA_* for any program.)
        ("I_MPI_HYDRA_UUID", Launcher::Intel),
        ("HYDRA_BSTRAP_LAUNCHER", Launcher::Intel),
        ("MPI_LOCALRANKID", Launcher::Mpich),
        ("SLURM_STEP_ID", Launcher::Slurm),
        // It removes what those above leave.
        ("IRONBAND_RUN", Launcher::Ironband),
        ("PMI_FD", Launcher::Mpich),
        ("PMI_PORT", Launcher::Mpich),
        ("PMIX_NAMESPACE", Launcher::Unknown),
        ("PMI_RANK", Launcher::Unknown),
        ("IRONBAND_PMI_ROOT", Launcher::Unknown),
    ];
    by_variable
        .into_iter()
        .find(|(name, _)| environment.has(name))
        .map_or(Launcher::Nobody, |(_, launcher)| launcher)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(variables: &[(&str, &str)]) -> Result<(Protocol, Contact), String> {
        let environment = Environment::of(variables);
        detect(&environment).map(|found| (found.protocol, found.contact)).map_err(|reason| reason.to_string())
    }

    const HYDRA: [(&str, &str); 3] = [("PMI_FD", "7"), ("PMI_RANK", "1"), ("PMI_SIZE", "4")];
    const PMIX: [(&str, &str); 3] =
        [("PMIX_NAMESPACE", "job.1"), ("PMIX_SERVER_URI41", "x;tcp4://127.0.0.1:1"), ("PMIX_RANK", "0")];
    const SLURM: [(&str, &str); 5] = [
        ("SLURM_JOB_ID", "12"),
        ("SLURM_STEP_ID", "3"),
        ("SLURM_PROCID", "2"),
        ("SLURM_STEP_NUM_TASKS", "4"),
        ("SLURM_STEP_NODELIST", "n[0-1]"),
    ];

    #[test]
    fn the_order_is_pmix_then_pmi_then_slurm_then_alone() {
        let all = [&PMIX[..], &HYDRA, &SLURM].concat();
        assert_eq!(found(&all).unwrap().0, Protocol::Pmix);
        let wire = Contact::Descriptor { fd: 7, rank: 1, size: 4 };
        assert_eq!(found(&[&HYDRA[..], &SLURM].concat()), Ok((Protocol::Pmi1, wire.clone())));
        assert_eq!(
            found(&[("PMI_PORT", "host:99"), ("PMI_ID", "3")]),
            Ok((Protocol::Pmi1, Contact::Port { address: "host:99".to_owned(), id: 3 }))
        );
        let root = Root {
            rank: 2,
            size: 4,
            address: "n0:20735".to_owned(),
            or_address: None,
            job: "slurm.12.3".to_owned(),
        };
        assert_eq!(found(&SLURM), Ok((Protocol::Tcp, Contact::Root(root))));
        assert_eq!(found(&[]), Ok((Protocol::Single, Contact::Alone)));
        assert_eq!(found(&[&[("IRONBAND_PMI", "pmi2")], &HYDRA[..]].concat()), Ok((Protocol::Pmi2, wire)));
        assert_eq!(found(&[&[("IRONBAND_PMI", "single")], &all[..]].concat()).unwrap().0, Protocol::Single);
    }

    #[test]
    fn a_launcher_that_cannot_be_used_is_an_error() {
        for (variables, wanted) in [
            (&[("PMI_FD", "7")][..], "PMI_RANK"),
            (&[("PMI_FD", "seven"), ("PMI_RANK", "0"), ("PMI_SIZE", "1")], "PMI_FD=\"seven\""),
            (&[("PMI_FD", "7"), ("PMI_RANK", "4"), ("PMI_SIZE", "4")], "rank 4 of 4"),
            (&[("PMI_PORT", "host:99")], "PMI_ID"),
            (&[("PMI_RANK", "1")], "PMI_FD and PMI_PORT"),
            (&[("OMPI_COMM_WORLD_SIZE", "2")], "PMIX_NAMESPACE"),
            (&[("PMIX_RANK", "0")], "PMIX_SERVER_URI"),
            (&[("IRONBAND_PMI", "pmi3")], "auto, pmi1"),
            (&[("IRONBAND_PMI", "pmix")], "PMIX_NAMESPACE"),
            (&[("IRONBAND_PMI", "pmi1")], "PMI_FD"),
            (&[("IRONBAND_PMI", "tcp")], "IRONBAND_PMI_ROOT"),
            (&[("IRONBAND_PMI", "tcp"), ("IRONBAND_PMI_ROOT", "h:1")], "IRONBAND_PMI_RANK"),
            (&SLURM[..3], "SLURM_STEP_NODELIST"),
        ] {
            let reason = found(variables).expect_err(wanted);
            assert!(reason.contains(wanted), "{variables:?}: {reason}");
        }
    }

    #[test]
    fn the_root_of_a_slurm_step_has_two_addresses() {
        let root_of = |more: &[(&str, &str)]| match found(&[&SLURM[..], more].concat()) {
            Ok((_, Contact::Root(root))) => (root.address, root.or_address),
            other => panic!("{other:?}"),
        };
        for (launched_from, wanted) in [("10.1.2.3", "10.1.2.3:20735"), ("fe80::1", "[fe80::1]:20735")] {
            let addresses = root_of(&[("SLURM_LAUNCH_NODE_IPADDR", launched_from)]);
            assert_eq!(addresses, ("n0:20735".to_owned(), Some(wanted.to_owned())));
        }
        let said = [("IRONBAND_PMI_ROOT", "login:9"), ("SLURM_LAUNCH_NODE_IPADDR", "10.1.2.3")];
        assert_eq!(root_of(&said), ("login:9".to_owned(), None), "who says where it is knows it");
    }

    #[test]
    fn one_process_opens_no_port() {
        let mut alone = SLURM;
        (alone[2], alone[3]) = (("SLURM_PROCID", "0"), ("SLURM_STEP_NUM_TASKS", "1"));
        assert_eq!(found(&alone), Ok((Protocol::Tcp, Contact::Alone)));
        let own = [("IRONBAND_PMI_ROOT", "h:1"), ("IRONBAND_PMI_RANK", "0"), ("IRONBAND_PMI_SIZE", "1")];
        assert_eq!(
            found(&[&[("IRONBAND_PMI", "tcp")], &own[..]].concat()),
            Ok((Protocol::Tcp, Contact::Alone))
        );
    }

    /// What each launcher was seen to set, as far as others set it too (pmi/tests/dialogues, and `ci/launchers run NAME 1 env`).
    #[test]
    fn launchers_are_called_by_their_names() {
        let hydra = [("MPI_LOCALRANKID", "0"), ("MPI_LOCALNRANKS", "4")];
        let open_mpi = [("OMPI_COMM_WORLD_SIZE", "4")];
        let own = [("IRONBAND_RUN", "1")];
        for (variables, wanted) in [
            (vec![], "no launcher"),
            (vec![&HYDRA[..], &hydra], "MPICH's mpiexec"),
            (vec![&HYDRA[..], &[("PMI_DEBUG", "0")]], "MPICH's mpiexec"),
            (vec![&[("PMI_PORT", "host:99"), ("PMI_ID", "3")]], "MPICH's mpiexec"),
            (vec![&HYDRA[..], &hydra, &[("I_MPI_HYDRA_UUID", "x")]], "Intel MPI's mpiexec"),
            (vec![&HYDRA[..], &hydra, &[("HYDRA_BSTRAP_LAUNCHER", "fork")]], "Intel MPI's mpiexec"),
            (vec![&PMIX[..], &open_mpi], "Open MPI's mpirun"),
            (vec![&PMIX[..], &open_mpi, &[("PRTE_LAUNCHED", "1")]], "prterun (Open MPI 5)"),
            (vec![&PMIX[..], &open_mpi, &[("PRTE_MCA_x", "set by a user")]], "Open MPI's mpirun"),
            (vec![&PMIX[..], &[("PRTE_LAUNCHED", "1")]], "prterun (Open MPI 5)"),
            (vec![&SLURM], "Slurm's srun"),
            (vec![&HYDRA[..], &SLURM, &[("PMI_JOBID", "12.3")]], "Slurm's srun"),
            (vec![&PMIX[..], &SLURM], "Slurm's srun"),
            (vec![&HYDRA[..], &own], "ironband run"),
            // One starts the other, and the inner one is meant.
            (vec![&HYDRA[..], &hydra, &SLURM], "MPICH's mpiexec"),
            (vec![&PMIX[..], &open_mpi, &own], "Open MPI's mpirun"),
            (vec![&PMIX[..], &open_mpi, &SLURM], "Open MPI's mpirun"),
            (vec![&PMIX], "an unknown launcher"),
        ] {
            let variables = variables.concat();
            assert_eq!(launcher(&Environment::of(&variables)).to_string(), wanted, "{variables:?}");
        }
    }

    /// A batch script of Slurm has SLURM_PROCID and no step: what runs in it is alone.
    #[test]
    fn a_batch_script_is_alone() {
        let batch = [("SLURM_JOB_ID", "12"), ("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8")];
        assert_eq!(found(&batch).unwrap().0, Protocol::Single);
    }
}
