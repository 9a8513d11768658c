use portcullis_tests::{image, world::load};
use std::time::Instant;
#[test]
fn profile() {
    let kernel = ksim::Kernel::new(&ksim::Config {
        processors: 4,
        ..Default::default()
    })
    .unwrap();
    let mut t = [0u128; 4];
    let n = 50;
    for _ in 0..n {
        let a = Instant::now();
        let k = ksim::Kernel::new(&ksim::Config {
            processors: 4,
            ..Default::default()
        })
        .unwrap();
        drop(k);
        let b = Instant::now();
        let d = load(&kernel, "portcullis.sys", image::portcullis());
        let c = Instant::now();
        let _ = d.start().unwrap();
        let e = Instant::now();
        let r = d.unload().unwrap();
        assert!(r.is_clean());
        let f = Instant::now();
        t[0] += (b - a).as_micros();
        t[1] += (c - b).as_micros();
        t[2] += (e - c).as_micros();
        t[3] += (f - e).as_micros();
    }
    println!(
        "kernel {} load {} start {} unload {} us",
        t[0] / n,
        t[1] / n,
        t[2] / n,
        t[3] / n
    );
    let s = std::fs::read_to_string("/proc/self/status").unwrap();
    println!("{}", s.lines().find(|l| l.starts_with("VmRSS")).unwrap());
    println!(
        "maps {}",
        std::fs::read_to_string("/proc/self/maps")
            .unwrap()
            .lines()
            .count()
    );
}
