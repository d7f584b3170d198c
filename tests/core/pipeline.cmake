espalier_test(test_pipeline SOURCES core/test_pipeline.cpp core/test_pipeline_recipe.cpp LIBS espalier::pipeline)
