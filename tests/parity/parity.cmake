# Forward pass and perplexity against the reference (fixtures/README.md): two models from the repository, the others where
# ESPALIER_SHARED_FIXTURES has them.
espalier_test(test_parity SOURCES parity/test_parity.cpp LIBS espalier::model LABELS parity TIMEOUT 300)
