// swift-tools-version: 6.2
import PackageDescription

// A package that depends on swift-attention in the same way as a user's package.
let package = Package(
  name: "attention-examples",
  platforms: [.macOS(.v15)],
  dependencies: [.package(name: "swift-attention", path: "..")],
  targets: [
    .executableTarget(
      name: "TenLines", dependencies: [.product(name: "Attention", package: "swift-attention")]),
    .executableTarget(
      name: "PyTorchLayer",
      dependencies: [
        .product(name: "Attention", package: "swift-attention"),
        .product(name: "AttentionFiles", package: "swift-attention"),
      ]),
    .executableTarget(
      name: "ConcurrentCalls", dependencies: [.product(name: "Attention", package: "swift-attention")]),
    .executableTarget(
      name: "CharacterModel",
      dependencies: [
        .product(name: "Attention", package: "swift-attention"),
        .product(name: "AttentionTraining", package: "swift-attention"),
      ]),
    .target(
      name: "DifferentiableAttention", dependencies: [.product(name: "Attention", package: "swift-attention")]),
    .testTarget(name: "DifferentiableAttentionTests", dependencies: ["DifferentiableAttention"]),
  ]
)
