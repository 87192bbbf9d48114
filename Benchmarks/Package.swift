// swift-tools-version: 6.1
// A package of its own, so that who uses the library does not resolve what measures it.
import PackageDescription

let package = Package(
  name: "attention-benchmarks",
  platforms: [.macOS(.v15)],
  dependencies: [
    .package(name: "swift-attention", path: ".."),
    // Its own counting of allocations needs more packages; the counter below needs none.
    .package(url: "https://github.com/ordo-one/benchmark", from: "1.38.1", traits: []),
  ],
  targets: [
    .target(name: "CAllocationCounter", path: "CAllocationCounter"),
    .executableTarget(
      name: "AttentionBenchmarks",
      dependencies: [
        "CAllocationCounter",
        .product(name: "Attention", package: "swift-attention"),
        .product(name: "AttentionBLAS", package: "swift-attention"),
        .product(name: "Benchmark", package: "benchmark"),
      ],
      path: "Benchmarks/AttentionBenchmarks",
      plugins: [.plugin(name: "BenchmarkPlugin", package: "benchmark")]),
  ]
)
