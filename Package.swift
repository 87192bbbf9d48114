// swift-tools-version: 6.2
import PackageDescription

let swiftSettings: [SwiftSetting] = [
  .swiftLanguageMode(.v6),
  .enableUpcomingFeature("ExistentialAny"),
  .enableUpcomingFeature("InternalImportsByDefault"),
  .enableUpcomingFeature("MemberImportVisibility"),
]

// The C kernels link libm on Linux, because a debug build leaves calls of libm in them.
let mathLibrary: [LinkerSetting] = [.linkedLibrary("m", .when(platforms: [.linux]))]

let package = Package(
  name: "swift-attention",
  platforms: [.macOS(.v15)],
  products: [
    // MARK: Public API
    .library(name: "Attention", targets: ["Attention", "AttentionRuntime", "AttentionTensors"]),
    .library(name: "AttentionBLAS", targets: ["AttentionBLAS"]),
    .library(name: "AttentionFiles", targets: ["AttentionFiles"]),
    .library(name: "AttentionModels", targets: ["AttentionModels"]),
    .library(name: "AttentionTraining", targets: ["AttentionTraining"]),
    .executable(name: "attend", targets: ["attend"]),
  ],
  dependencies: [
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.5.0")
  ],
  targets: [
    // MARK: System libraries and C
    .systemLibrary(
      name: "COpenBLAS", pkgConfig: "openblas",
      providers: [.apt(["libopenblas-dev"]), .brew(["openblas"])]),
    .systemLibrary(
      name: "CLAPACKE", pkgConfig: "lapacke", providers: [.apt(["liblapacke-dev"]), .brew(["lapack"])]),
    .target(name: "COpenBLASStartup"),
    // The excluded files are bodies that the sources of the instruction sets include. They are not compiled by
    // themselves.
    .target(name: "CAttentionKernels", exclude: ["generic", "x86/block.inc"], linkerSettings: mathLibrary),

    // MARK: The library; each target imports only targets above it
    .target(name: "CLibrary", swiftSettings: swiftSettings),
    .target(name: "AttentionRuntime", dependencies: ["CAttentionKernels", "CLibrary"], swiftSettings: swiftSettings),
    .target(
      name: "AttentionTensors", dependencies: ["AttentionRuntime", "CAttentionKernels", "CLibrary"],
      swiftSettings: swiftSettings),
    .target(name: "AttentionFiles", dependencies: ["AttentionTensors", "CLibrary"], swiftSettings: swiftSettings),
    .target(
      name: "AttentionBLAS", dependencies: ["AttentionTensors", "COpenBLAS", "COpenBLASStartup"],
      swiftSettings: swiftSettings),
    .target(
      name: "Attention", dependencies: ["AttentionBLAS", "AttentionFiles", "AttentionTensors", "CLibrary"],
      swiftSettings: swiftSettings),

    .target(
      name: "AttentionTraining",
      dependencies: ["Attention", "AttentionBLAS", "AttentionTensors", "CLAPACKE", "CLibrary"],
      swiftSettings: swiftSettings),

    .target(
      name: "AttentionModels", dependencies: ["Attention", "AttentionBLAS", "AttentionFiles", "AttentionTensors"],
      swiftSettings: swiftSettings),

    // MARK: Executables
    .target(name: "AttentionDrawing", swiftSettings: swiftSettings),
    .target(name: "AttentionCases", dependencies: ["Attention", "AttentionFiles"], swiftSettings: swiftSettings),
    .executableTarget(
      name: "attend",
      dependencies: [
        "Attention", "AttentionBLAS", "AttentionCases", "AttentionDrawing", "AttentionFiles", "AttentionModels",
        "AttentionTensors", "AttentionTraining", .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ],
      resources: [.embedInCode("Maps/map.html")], swiftSettings: swiftSettings),
    // `attention-runner` and its C code are in this package and not in Benchmarks/Package.swift, because the runner
    // uses `package` symbols of the library.
    .target(name: "CMachinePeaks", path: "Benchmarks/CMachinePeaks"),
    .executableTarget(
      name: "attention-runner",
      dependencies: [
        "Attention", "AttentionBLAS", "AttentionDrawing", "AttentionFiles", "AttentionModels", "AttentionTensors",
        "AttentionTestSupport", "CMachinePeaks", .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ],
      path: "Benchmarks/Runner", resources: [.embedInCode("workloads.json")], swiftSettings: swiftSettings),

    // MARK: Tests
    .target(name: "CFileCalls", path: "Tests/CFileCalls"),
    .target(
      name: "AttentionTestSupport", dependencies: ["CLibrary"], path: "Tests/AttentionTestSupport",
      swiftSettings: swiftSettings),
    .target(
      name: "AttentionProblems",
      dependencies: ["Attention", "AttentionFiles", "AttentionTensors", "AttentionTestSupport", "CLibrary"],
      path: "Tests/AttentionProblems", swiftSettings: swiftSettings),
    .testTarget(
      name: "AttentionRuntimeTests", dependencies: ["AttentionRuntime", "AttentionTensors", "AttentionTestSupport"],
      swiftSettings: swiftSettings),
    .testTarget(
      name: "AttentionTensorsTests", dependencies: ["AttentionTensors", "AttentionTestSupport", "CLibrary"],
      swiftSettings: swiftSettings),
    .testTarget(
      name: "AttentionBLASTests",
      dependencies: ["AttentionBLAS", "AttentionProblems", "AttentionTensors", "AttentionTestSupport"],
      swiftSettings: swiftSettings),
    .testTarget(
      name: "AttentionTests",
      dependencies: [
        "Attention", "AttentionBLAS", "AttentionFiles", "AttentionProblems", "AttentionTensors", "AttentionTestSupport",
        "CLibrary",
      ],
      swiftSettings: swiftSettings),
    .testTarget(
      name: "AttentionFilesTests",
      dependencies: ["AttentionFiles", "AttentionTensors", "AttentionTestSupport", "CFileCalls"],
      swiftSettings: swiftSettings),
    .testTarget(
      name: "AttentionModelsTests",
      dependencies: [
        "Attention", "AttentionBLAS", "AttentionFiles", "AttentionModels", "AttentionProblems", "AttentionTensors",
        "AttentionTestSupport",
      ],
      swiftSettings: swiftSettings),
    .testTarget(
      name: "AttentionTrainingTests",
      dependencies: [
        "Attention", "AttentionBLAS", "AttentionFiles", "AttentionTensors", "AttentionTestSupport", "AttentionTraining",
        "CLibrary",
      ],
      swiftSettings: swiftSettings),
    .testTarget(
      name: "DocumentationTests",
      dependencies: [
        "Attention", "AttentionBLAS", "AttentionFiles", "AttentionModels", "AttentionTestSupport", "AttentionTraining",
      ],
      swiftSettings: swiftSettings),
    .testTarget(
      name: "AttendTests",
      dependencies: [
        "AttentionDrawing", "AttentionFiles", "AttentionTensors", "AttentionTestSupport", "attend", "attention-runner",
      ],
      swiftSettings: swiftSettings),
  ],
  cLanguageStandard: .c11
)

// `make docs` builds the documentation and sets this variable. Users of the package do not resolve the plugin.
if Context.environment["ATTENTION_DOCC"] != nil {
  package.dependencies.append(.package(url: "https://github.com/swiftlang/swift-docc-plugin", from: "1.4.0"))
}

// `make fuzz` builds these fuzzers. Their `main` is in libFuzzer.
if Context.environment["ATTENTION_FUZZ"] != nil {
  package.targets += ["Attention", "SafeTensors"].map { name in
    .executableTarget(
      name: "Fuzz\(name)", dependencies: ["AttentionProblems"], path: "Tests/Fuzz/\(name)",
      swiftSettings: swiftSettings)
  }
}
