// swift-tools-version: 6.1
// This is a separate package, so that users of the library do not resolve the dependencies of its benchmarks.
import PackageDescription

let package = Package(
  name: "attention-benchmarks",
  platforms: [.macOS(.v15)],
  dependencies: [
    .package(name: "swift-attention", path: ".."),
    // The traits are off, because with them `benchmark` needs further packages to count allocations itself. The target
    // CAllocationCounter, below, counts them without further packages.
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
