//! The brokers that can be started: what they are called, what they can do, and how they are set up alike.
//!
//! Invariant: [`BrokerKind::settings`] says what [`BrokerKind::command`] does.

use std::io;
use std::path::Path;
use std::process::Command;

use veilmq_protocol::QoS;

use super::Persistence;
use super::secrets::Secrets;

/// The brokers that can be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BrokerKind {
    Mosquitto,
    Nats,
    Rumqttd,
    Rmqttd,
    NanoMq,
    VeilMq,
}

/// Where a broker is to listen, what it is to keep, and what it has to prove who it is.
pub(super) struct Setup<'a> {
    pub(super) directory: &'a Path,
    pub(super) persistence: Persistence,
    pub(super) secrets: Option<&'a Secrets>,
    pub(super) port: u16,
    /// For an administrative interface, or a protocol that is not measured.
    pub(super) other_port: u16,
    /// For TLS, where there are secrets.
    pub(super) tls_port: u16,
    /// Options of ours, as variables of the environment; other brokers are not given any.
    pub(super) options: &'a [(&'a str, &'a str)],
}

/// What a kind of broker can do, as far as rows of a comparison ask for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Abilities {
    pub(crate) qos_max: QoS,
    pub(crate) shared_subscriptions: bool,
    /// With which it takes thousands of filters from one client.
    pub(crate) many_filters_qos_max: QoS,
    /// Its state can outlive its process.
    pub(crate) disk: bool,
    /// This program knows how to have it speak TLS.
    pub(crate) tls: bool,
    pub(crate) veil: bool,
}

impl BrokerKind {
    pub(super) const ALL: [Self; 6] =
        [Self::Mosquitto, Self::Nats, Self::Rumqttd, Self::Rmqttd, Self::NanoMq, Self::VeilMq];

    /// The name on the command line, which is also that of the program.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::VeilMq => "veilmq",
            Self::Mosquitto => "mosquitto",
            Self::Nats => "nats-server",
            Self::Rumqttd => "rumqttd",
            Self::Rmqttd => "rmqttd",
            Self::NanoMq => "nanomq",
        }
    }

    /// The option that has it print its version.
    pub(super) fn version_flag(self) -> &'static str {
        match self {
            Self::VeilMq | Self::Nats | Self::Rumqttd | Self::Rmqttd | Self::NanoMq => "--version",
            Self::Mosquitto => "-h",
        }
    }

    pub(crate) fn abilities(self) -> Abilities {
        let all = Abilities {
            qos_max: QoS::ExactlyOnce,
            shared_subscriptions: true,
            many_filters_qos_max: QoS::ExactlyOnce,
            disk: false,
            tls: false,
            veil: false,
        };
        match self {
            Self::VeilMq => Abilities { disk: true, tls: true, veil: true, ..all },
            Self::Mosquitto => Abilities { disk: true, tls: true, ..all },
            Self::Nats => {
                let (qos_max, many_filters_qos_max) = (QoS::AtLeastOnce, QoS::AtMostOnce);
                Abilities { qos_max, many_filters_qos_max, shared_subscriptions: false, disk: true, ..all }
            }
            Self::Rumqttd | Self::Rmqttd | Self::NanoMq => all,
        }
    }

    /// How the broker is made comparable, in words for the report.
    pub(crate) fn settings(self) -> &'static str {
        match self {
            Self::VeilMq => {
                "as it starts without configuration, so that what is acknowledged is synced, data in a temporary directory"
            }
            Self::Mosquitto => {
                "persistence false, max_inflight_messages 0, max_queued_messages 0, set_tcp_nodelay true, \
                 sys_interval 0, logs errors only; rows of durable sessions: persistence true, autosave_interval 1"
            }
            Self::Nats => {
                "MQTT over JetStream with file storage, whose files it syncs every two minutes (2.9 has no option for that), \
                 max_ack_pending 65535, max_payload 8 MB, no Shared Subscriptions, no QoS 2"
            }
            Self::Rumqttd => {
                "max_inflight_count 1000, max_payload_size 16 MiB, its commit log in memory as it comes"
            }
            Self::Rmqttd => "max_inflight and max_mqueue_len 65535, no plugins, so nothing on disk",
            Self::NanoMq => "as it comes",
        }
    }

    pub(super) fn command(self, program: &Path, setup: &Setup<'_>) -> io::Result<Command> {
        let mut command = Command::new(program);
        let file = setup.directory.join(format!("{}.conf", self.name()));
        match self {
            Self::VeilMq => veilmq(&mut command, setup),
            Self::NanoMq => {
                command.args(["start", "--url", &format!("nmq-tcp://127.0.0.1:{}", setup.port)]);
            }
            Self::Mosquitto => {
                std::fs::write(&file, mosquitto(setup))?;
                command.arg("-c").arg(file);
            }
            Self::Nats => {
                std::fs::write(&file, nats(setup))?;
                command.arg("-c").arg(file);
            }
            Self::Rumqttd => {
                let file = file.with_extension("toml");
                std::fs::write(&file, rumqttd(setup))?;
                command.arg("-c").arg(file).arg("-q");
            }
            Self::Rmqttd => {
                let file = file.with_extension("toml");
                std::fs::write(&file, rmqttd(setup))?;
                command.arg("-f").arg(file);
            }
        }
        Ok(command)
    }
}

fn veilmq(command: &mut Command, setup: &Setup<'_>) {
    let Setup { port, tls_port, .. } = setup;
    match setup.secrets {
        None => {
            command.arg("-p").arg(port.to_string());
        }
        Some(secrets) => {
            command.env("VEILMQ__LISTENERS", format!("127.0.0.1:{port},mqtts://127.0.0.1:{tls_port}"));
            command.env("VEILMQ__TLS__CERTIFICATE_FILE", &secrets.certificate);
            command.env("VEILMQ__TLS__KEY_FILE", &secrets.key);
            command.env("VEILMQ__VEIL__TRUST", secrets.authority.with_extension("vmc"));
        }
    }
    command.envs(setup.options.iter().copied());
    command.arg("--data-dir").arg(setup.directory.join("data"));
    command.arg("--admin").arg(format!("127.0.0.1:{}", setup.other_port));
}

fn mosquitto(setup: &Setup<'_>) -> String {
    let Setup { directory, persistence, secrets, port, tls_port, .. } = setup;
    let persistence = match persistence {
        Persistence::Off => "persistence false\n".to_owned(),
        Persistence::Disk => {
            let location = directory.display();
            format!("persistence true\npersistence_location {location}/\nautosave_interval 1\n")
        }
    };
    let tls = secrets.map_or_else(String::new, |secrets| {
        let (certificate, key) = (secrets.certificate.display(), secrets.key.display());
        format!("listener {tls_port} 127.0.0.1\ncertfile {certificate}\nkeyfile {key}\n")
    });
    // Started by root it would otherwise become a user who can neither read the key nor write its state.
    format!(
        "{persistence}\
         user root\n\
         allow_anonymous true\n\
         max_inflight_messages 0\n\
         max_queued_messages 0\n\
         set_tcp_nodelay true\n\
         sys_interval 0\n\
         connection_messages false\n\
         log_dest stderr\n\
         log_type error\n\
         listener {port} 127.0.0.1\n\
         {tls}"
    )
}

fn nats(setup: &Setup<'_>) -> String {
    let Setup { directory, port, other_port, .. } = setup;
    format!(
        "listen: \"127.0.0.1:{other_port}\"\n\
         server_name: bench\n\
         max_payload: 8MB\n\
         jetstream {{ store_dir: \"{}\" }}\n\
         mqtt {{ listen: \"127.0.0.1:{port}\", max_ack_pending: 65535 }}\n",
        directory.join("data").display(),
    )
}

fn rumqttd(setup: &Setup<'_>) -> String {
    let Setup { port, other_port, .. } = setup;
    format!(
        "id = 0\n\
         [router]\n\
         id = 0\n\
         max_connections = 20000\n\
         max_outgoing_packet_count = 200\n\
         max_segment_size = 104857600\n\
         max_segment_count = 10\n\
         [v4.1]\n\
         name = \"v4-1\"\n\
         listen = \"127.0.0.1:{port}\"\n\
         next_connection_delay_ms = 0\n\
         [v4.1.connections]\n\
         connection_timeout_ms = 60000\n\
         max_payload_size = 16777216\n\
         max_inflight_count = 1000\n\
         dynamic_filters = true\n\
         [console]\n\
         listen = \"127.0.0.1:{other_port}\"\n"
    )
}

fn rmqttd(setup: &Setup<'_>) -> String {
    let Setup { port, other_port, .. } = setup;
    format!(
        "[node]\n\
         id = 1\n\
         [rpc]\n\
         server_addr = \"127.0.0.1:{other_port}\"\n\
         [log]\n\
         to = \"console\"\n\
         level = \"error\"\n\
         [listener.tcp.external]\n\
         addr = \"127.0.0.1:{port}\"\n\
         allow_anonymous = true\n\
         max_connections = 20000\n\
         max_packet_size = \"16m\"\n\
         max_inflight = 65535\n\
         max_mqueue_len = 65535\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_told_where_to_listen() {
        let directory = tempfile::tempdir().unwrap();
        let setup = Setup {
            directory: directory.path(),
            persistence: Persistence::Disk,
            secrets: None,
            port: 41_001,
            other_port: 41_002,
            tls_port: 41_003,
            options: &[],
        };

        for kind in BrokerKind::ALL {
            let command = kind.command(Path::new(kind.name()), &setup).unwrap();
            let mut told: Vec<String> =
                command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
            told.extend(command.get_args().filter_map(|word| std::fs::read_to_string(word).ok()));
            assert!(told.iter().any(|text| text.contains("41001")), "{kind:?}: {told:?}");
            assert!(!told.iter().any(|text| text.contains("41003")), "{kind:?} has no certificate: {told:?}");
        }
    }
}
