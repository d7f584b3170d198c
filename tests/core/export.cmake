espalier_test(test_export SOURCES core/test_export.cpp LIBS espalier::export espalier::evaluate TIMEOUT 300)
