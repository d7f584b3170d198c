espalier_test(test_evaluate SOURCES core/test_evaluate.cpp LIBS espalier::evaluate TIMEOUT 300)
set_tests_properties(test_evaluate PROPERTIES ENVIRONMENT "GTEST_FILTER=-Demo.PerplexityOfWholeTexts")
add_test(NAME test_evaluate_demo COMMAND test_evaluate --gtest_filter=Demo.PerplexityOfWholeTexts)
set_tests_properties(test_evaluate_demo PROPERTIES TIMEOUT 900 LABELS slow)
