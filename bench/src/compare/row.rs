//! The rows of a comparison: what each measures, on which brokers it can be measured, and how.
//!
//! Traffic over plain TCP runs on brokers that go on running. Every other row gets a fresh one, because what it measures depends
//! on what a process has done before, or because it needs a broker that is set up otherwise.

use std::sync::Arc;

use veilmq_protocol::{ProtocolVersion, QoS};

use super::Comparison;
use crate::broker::{Abilities, BrokerKind, BrokerSpec, Persistence, RunningBroker, Secrets, TLS_NAME};
use crate::idle::{self, IdlePlan};
use crate::link::{TlsTransport, Transport, VeilTransport};
use crate::load::{self, Amount, Plan};
use crate::report::{Connections, RunReport};
use crate::scenario::{Reach, Scenario};
use crate::{connects, durable, retained};

/// Pairs of the rows over TLS and VEIL-1, and of the row that shows what commits cost when many clients share them.
pub(crate) const PAIRS: u16 = 10;

/// What MQTT is carried by in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    Tcp,
    Tls,
    /// TLS with connections that resume earlier sessions.
    TlsResumed,
    Veil,
}

/// One thing that is measured on all brokers that can do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    Flood(Scenario, QoS),
    Latency(QoS, u32),
    /// Pairs over another carrier than TCP.
    Secured(Carrier, QoS),
    Connects(Carrier, u32),
    Idle(Carrier, u32),
    Retained(u32),
    /// Pairs with durable subscribers.
    Stored(u16),
    Away(u16),
}

/// Figures of one row, in the order in which they are shown.
pub(crate) type Measured = Vec<f64>;

impl Row {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Flood(scenario, qos) => format!("{scenario} QoS {}", qos as u8),
            Self::Latency(qos, per_second) => format!("1-1 QoS {} at {per_second}/s", qos as u8),
            Self::Secured(carrier, qos) => format!("pairs-{PAIRS} QoS {}{}", qos as u8, carrier.suffix()),
            Self::Connects(carrier, _) => format!("connections{}", carrier.suffix()),
            Self::Idle(carrier, connections) => format!("{connections} idle connections{}", carrier.suffix()),
            Self::Retained(count) => format!("{count} retained"),
            Self::Stored(pairs) => format!("durable pairs-{pairs} QoS 1"),
            Self::Away(sessions) => format!("1-{sessions} away"),
        }
    }

    /// Names and units of what the row measures.
    pub(crate) fn figures(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Flood(..) | Self::Secured(..) | Self::Stored(_) | Self::Retained(_) => {
                &[("CPU per delivery", "us"), ("deliveries", "1/s")]
            }
            Self::Latency(..) => &[("p50", "us"), ("p99", "us"), ("CPU per delivery", "us")],
            Self::Connects(..) => &[("CPU per connection", "us"), ("connections", "1/s"), ("p99", "us")],
            Self::Idle(..) => &[("PSS per connection", "B")],
            Self::Away(_) => durable::FIGURES,
        }
    }

    /// Whether brokers of `kind` can do what the row asks for.
    pub(crate) fn suits(self, kind: BrokerKind) -> bool {
        let Abilities { qos_max, shared_subscriptions, many_filters_qos_max, disk, tls, veil } =
            kind.abilities();
        let carries = |carrier| match carrier {
            Carrier::Tcp => true,
            Carrier::Tls | Carrier::TlsResumed => tls,
            Carrier::Veil => veil,
        };
        match self {
            Self::Flood(scenario, qos) => {
                qos <= qos_max
                    && (shared_subscriptions || scenario.reach != Reach::AnyOne)
                    && (qos <= many_filters_qos_max || scenario.topics == 1)
            }
            Self::Latency(qos, _) => qos <= qos_max,
            Self::Secured(carrier, qos) => qos <= qos_max && carries(carrier),
            Self::Connects(carrier, _) | Self::Idle(carrier, _) => carries(carrier),
            Self::Retained(_) => true,
            Self::Stored(_) | Self::Away(_) => disk,
        }
    }
}

impl Carrier {
    fn suffix(self) -> &'static str {
        match self {
            Self::Tcp => "",
            Self::Tls => " over TLS",
            Self::TlsResumed => " over TLS, resumed",
            Self::Veil => " over VEIL-1",
        }
    }
}

/// Measures `row` on a broker of `spec`; `broker` is the one that goes on running.
///
/// # Errors
/// A broker does not start, or the measurement fails.
pub(crate) async fn measure(
    comparison: &Comparison,
    row: Row,
    spec: &BrokerSpec,
    broker: &RunningBroker,
    fault: &mut impl FnMut(String),
) -> Result<Measured, String> {
    let plan = Plan { address: broker.address, broker_pid: Some(broker.pid()), ..comparison.common.clone() };
    match row {
        Row::Flood(scenario, qos) => {
            let messages = (comparison.deliveries / scenario.deliveries_per_message()).max(1);
            traffic(&Plan { scenario, qos, amount: Amount::Messages(messages), ..plan }, fault).await
        }
        Row::Latency(qos, per_second) => {
            let amount = Amount::Time(comparison.latency_time);
            let (scenario, per_second) = (Scenario::fan_out(1), Some(per_second));
            let report = run(&Plan { scenario, qos, amount, per_second, ..plan }, fault).await?;
            let latency = report.latency.as_ref().ok_or("nothing was delivered")?;
            Ok(vec![latency.p50_micros, latency.p99_micros, cpu_micros(&report)?])
        }
        Row::Secured(carrier, qos) => {
            let fresh = Fresh::start(comparison, spec, carrier).await?;
            let amount = Amount::Messages(comparison.deliveries);
            traffic(&Plan { scenario: Scenario::pairs(PAIRS), qos, amount, ..fresh.plan(&plan) }, fault).await
        }
        Row::Connects(carrier, count) => {
            let fresh = Fresh::start(comparison, spec, carrier).await?;
            let report = connects::run(&fresh.plan(&plan), count).await.map_err(text)?;
            let Some(Connections { broker_cpu_micros: Some(cpu), per_second, .. }) = report.connections
            else {
                return Err("no CPU time was read".to_owned());
            };
            Ok(vec![cpu, per_second, report.latency.ok_or("nothing was opened")?.p99_micros])
        }
        Row::Idle(carrier, connections) => {
            idle::allow_open_files(connections).map_err(text)?;
            let fresh = Fresh::start(comparison, spec, carrier).await?;
            let Plan { address, transport, version, broker_pid, limit, .. } = fresh.plan(&plan);
            let idle_plan =
                IdlePlan { address, transport, version, connections, processes: None, broker_pid, limit };
            let opened = idle::measure(&idle_plan).await.map_err(text)?;
            let memory = opened.memory.ok_or("no memory was read")?;
            Ok(vec![memory.pss_bytes_per_connection])
        }
        Row::Retained(count) => {
            let fresh = Fresh::start(comparison, spec, Carrier::Tcp).await?;
            let report = retained::run(&fresh.plan(&plan), count).await.map_err(text)?;
            check(&report, fault);
            Ok(vec![cpu_micros(&report)?, report.deliveries_per_second])
        }
        Row::Stored(pairs) => {
            let fresh = RunningBroker::start(spec, Persistence::Disk).await.map_err(text)?;
            let plan = Plan {
                address: fresh.address,
                broker_pid: Some(fresh.pid()),
                is_durable: true,
                scenario: Scenario::pairs(pairs),
                qos: QoS::AtLeastOnce,
                amount: Amount::Messages(comparison.away_messages),
                ..plan
            };
            traffic(&plan, fault).await
        }
        Row::Away(sessions) => durable::measure(spec, &plan, sessions, comparison.away_messages).await,
    }
}

/// A broker for one row, and how it is reached.
struct Fresh {
    broker: RunningBroker,
    transport: Transport,
}

impl Fresh {
    async fn start(comparison: &Comparison, spec: &BrokerSpec, carrier: Carrier) -> Result<Self, String> {
        let secrets = match carrier {
            Carrier::Tcp => None,
            Carrier::Tls | Carrier::TlsResumed | Carrier::Veil => {
                Some(comparison.secrets.as_deref().ok_or("there is no certificate")?)
            }
        };
        let broker = RunningBroker::start_with(spec, Persistence::Off, secrets, &[]).await.map_err(text)?;
        let transport = transport(carrier, secrets, &broker)?;
        Ok(Self { broker, transport })
    }

    fn plan(&self, plan: &Plan) -> Plan {
        let (address, version) = match self.transport {
            Transport::Tcp => (self.broker.address, plan.version),
            Transport::Tls(_) => (self.broker.tls_address, plan.version),
            // VEIL-1 needs the AUTH packet, which MQTT 3 lacks.
            Transport::Veil(_) => (self.broker.address, ProtocolVersion::V5),
        };
        let broker_pid = Some(self.broker.pid());
        Plan { address, transport: self.transport.clone(), version, broker_pid, ..plan.clone() }
    }
}

fn transport(
    carrier: Carrier,
    secrets: Option<&Secrets>,
    broker: &RunningBroker,
) -> Result<Transport, String> {
    match (carrier, secrets) {
        (Carrier::Tcp, _) | (_, None) => Ok(Transport::Tcp),
        (Carrier::Tls | Carrier::TlsResumed, Some(secrets)) => {
            let resumes = carrier == Carrier::TlsResumed;
            let tls = TlsTransport::load(&secrets.certificate, TLS_NAME, resumes).map_err(text)?;
            Ok(Transport::Tls(Arc::new(tls)))
        }
        (Carrier::Veil, Some(secrets)) => {
            let veil = VeilTransport::load(&secrets.authority, &broker.veil_certificate()).map_err(text)?;
            Ok(Transport::Veil(Arc::new(veil)))
        }
    }
}

async fn traffic(plan: &Plan, fault: &mut impl FnMut(String)) -> Result<Measured, String> {
    let report = run(plan, fault).await?;
    Ok(vec![cpu_micros(&report)?, report.deliveries_per_second])
}

async fn run(plan: &Plan, fault: &mut impl FnMut(String)) -> Result<RunReport, String> {
    let report = RunReport::new(plan, &load::run(plan).await.map_err(text)?);
    check(&report, fault);
    Ok(report)
}

fn check(report: &RunReport, fault: &mut impl FnMut(String)) {
    if !report.is_faultless() {
        fault(report.counts.to_string());
    }
}

fn cpu_micros(report: &RunReport) -> Result<f64, String> {
    let cpu = report.broker_cpu.as_ref().and_then(|cpu| cpu.micros_per_delivery);
    cpu.ok_or_else(|| "nothing was delivered".to_owned())
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_is_not_asked_for_what_it_cannot_do() {
        use BrokerKind::{Mosquitto, Nats, Rumqttd, VeilMq};
        let shared = Scenario::shared(2, 2);
        let rows = [
            (Row::Flood(Scenario::pairs(1), QoS::AtLeastOnce), vec![Mosquitto, Nats, Rumqttd, VeilMq]),
            (Row::Flood(Scenario::pairs(1), QoS::ExactlyOnce), vec![Mosquitto, Rumqttd, VeilMq]),
            (Row::Flood(shared, QoS::AtMostOnce), vec![Mosquitto, Rumqttd, VeilMq]),
            (Row::Flood(Scenario::wildcards(2), QoS::AtLeastOnce), vec![Mosquitto, Rumqttd, VeilMq]),
            (Row::Connects(Carrier::Veil, 1), vec![VeilMq]),
            (Row::Away(1), vec![Mosquitto, Nats, VeilMq]),
        ];

        for (row, expected) in rows {
            let suited = [Mosquitto, Nats, Rumqttd, VeilMq].into_iter().filter(|kind| row.suits(*kind));
            assert_eq!(suited.collect::<Vec<_>>(), expected, "{row:?}");
        }
    }
}
