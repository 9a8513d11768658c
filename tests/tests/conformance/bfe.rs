//! BFE rows: the state of the base filtering engine.

use conformance_messages::bfe;
use wfp_schema::{Action, BfeState, FilterFlags};

use crate::world::{OK, World, connect, filter};

#[test]
fn bfe_01_a_stopped_engine_opens_no_session() {
    let w = World::without_bfe();
    assert_eq!(w.open(0).err(), Some(w.options().open_without_bfe));
    w.start_bfe();
    assert!(w.open(0).is_ok());
    w.end();
}

#[test]
fn bfe_02_subscribers_are_told_of_the_start() {
    let w = World::without_bfe();
    assert_eq!(w.bfe(bfe::SUBSCRIBE).status, OK.code());
    assert_ne!(
        w.bfe(bfe::STATE).values[0],
        u64::from(BfeState::Running.value())
    );
    w.start_bfe();
    let mut expected = vec![BfeState::StartPending.value(), BfeState::Running.value()];
    if !w.options().start_pending_is_told {
        expected.remove(0);
    }
    assert_eq!(w.states(), expected);
    assert_eq!(
        w.bfe(bfe::STATE).values[0],
        u64::from(BfeState::Running.value())
    );
    assert_eq!(w.bfe(bfe::UNSUBSCRIBE).status, OK.code());
    w.end();
}

#[test]
fn bfe_03_persistent_filters_take_over_from_those_of_boot_time() {
    let w = World::new();
    let s = w.session();
    // At boot time nothing gets out but to port 80; afterwards nothing gets to port 80.
    let block = filter(connect(), Action::Block).weight(1);
    let port = crate::conditions::equal(
        wfp_schema::condition::IP_REMOTE_PORT,
        wfp_schema::DataType::Uint16,
        80,
    );
    let boot = FilterFlags::BOOTTIME.bits();
    s.add(block.flags(boot));
    s.add(
        filter(connect(), Action::Permit)
            .weight(2)
            .when(port)
            .flags(boot),
    );
    s.add(block.when(port).flags(FilterFlags::PERSISTENT.bits()));
    assert_eq!(s.close(), OK);
    let w = w.rebooted();
    assert!(
        w.connects_to("198.51.100.7", 80),
        "the boot-time filters are in force"
    );
    assert!(!w.connects_to("198.51.100.7", 443));
    w.start_bfe();
    assert!(
        !w.connects_to("198.51.100.7", 80),
        "the persistent filters are in force"
    );
    assert!(w.connects_to("198.51.100.7", 443));
    w.end();
}
