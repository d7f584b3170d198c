espalier_test(test_plan SOURCES core/test_plan.cpp core/test_routing.cpp core/test_cost_model.cpp core/test_plan_history.cpp core/test_plan_name.cpp core/test_plan_forms.cpp LIBS espalier::plan)
