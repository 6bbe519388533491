//! The herd: a thousand requests at once with a token that no cache knows.

use crate::rig::Rig;

#[tokio::test]
async fn a_herd_costs_one_call() {
    let rig = Rig::start().await;
    for _ in 0..3 {
        let before = rig.figures().await;
        let told = rig.press("herd").await;
        let expected =
            "The herd: 1,000 requests at once, 1,000 got 200; 1 call reached MAS, 999 spared; ";
        assert!(told.starts_with(expected), "{told}");
        assert_eq!(rig.figure("herd-calls").await, 1);
        assert_eq!(rig.figure("herd-spared").await, 999);
        assert!(rig.figure("herd-took").await < 30_000);
        let after = rig.figures().await;
        assert_eq!(after.requests - before.requests, 1000);
        assert_eq!(after.calls - before.calls, 1);
        assert_eq!(after.at_mas - before.at_mas, 1);
        assert_eq!(after.spared - before.spared, 999);
    }
    let [at_mas, cached] = rig.member("herd").await;
    assert_eq!(at_mas, "active");
    assert!(cached.starts_with("activeuntil"), "{cached}");
}

#[tokio::test]
async fn a_herd_waits_at_the_edge_for_a_slow_mas() {
    let rig = Rig::start().await;
    let told = rig.press("make-slow").await;
    assert_eq!(told, "Made MAS slow: each answer takes 2 s.");
    assert_eq!(rig.text("mas-state").await, "slow");
    // The two seconds begin when all of them are there.
    let hold = rig.mas.hold();
    rig.begin("herd").await;
    rig.wait_for_figure("waiting", 1000).await;
    assert_eq!(rig.figure("mas-under-way").await, 1);
    assert_eq!(rig.figure("in-flight").await, 1);
    hold.release();
    let told = rig.ended("herd").await;
    assert!(
        told.contains("1,000 got 200; 1 call reached MAS, 999 spared; "),
        "{told}"
    );
    assert!(rig.figure("herd-took").await >= 2000);
    rig.wait_for_figure("waiting", 0).await;
    rig.wait_for_figure("mas-under-way", 0).await;

    assert_eq!(rig.press("end-faults").await, "MAS answers at once again.");
    assert_eq!(rig.text("mas-state").await, "up");
    assert!(rig.mas.faults().is_empty());
}
