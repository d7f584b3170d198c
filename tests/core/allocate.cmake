espalier_test(test_allocate SOURCES core/test_allocate.cpp LIBS espalier::allocate)
espalier_test(test_exact_solver SOURCES core/test_exact_solver.cpp LIBS espalier::allocate)
espalier_test(test_rank_rule SOURCES core/test_rank_rule.cpp LIBS espalier::allocate)
espalier_test(test_size_plan SOURCES core/test_size_plan.cpp LIBS espalier::allocate)
