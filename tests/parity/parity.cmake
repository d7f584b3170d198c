# Forward pass and perplexity against the reference (tests/fixtures/model/README.md).
espalier_test(test_parity SOURCES parity/test_parity.cpp LIBS espalier::model LABELS parity TIMEOUT 300)
espalier_test_without_avx512(test_parity "*Bf16*:*mixtral_tiny_*:*qwen2moe_tiny_*")
